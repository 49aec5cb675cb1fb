/*-------------------------------------------------------------------------
 *
 * redis.h
 *	  Declarations that the parts of the transport to Redis share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_REDIS_H
#define CQRS_REDIS_H

#include "postgres.h"

#include "lib/ilist.h"
#include "lib/stringinfo.h"

#include "broker/redis_batch.h"
#include "broker/redis_reply.h"
#include "broker/transport.h"

/* Batches that are kept: unsent, in flight, or not reported yet. */
#define CQRS_REDIS_BATCHES	8

/* How long to wait after an error that passes. */
#define CQRS_REDIS_RETRY_MS	1000

/* Prefixes of keys: a queue's lease, the number of its deliveries. */
#define CQRS_REDIS_CONSUMER		"cqrs.consumer."
#define CQRS_REDIS_DELIVERED	"cqrs.delivered."

/* How batches are sent. */
typedef enum CqrsRedisFlow
{
	CQRS_FLOW_OPEN,				/* one after another */
	CQRS_FLOW_DRAIN,			/* one was not executed: the replies to those
								 * behind it are awaited, and ignored */
	CQRS_FLOW_WAIT,				/* it is sent again at retry_at */
	CQRS_FLOW_RETRY				/* its reply is awaited */
} CqrsRedisFlow;

/* A delivery that is not acknowledged yet. */
typedef struct CqrsHeld
{
	dlist_node	node;
	uint64		tag;
	bool		acknowledged;	/* the server does not know yet */
	Size		length;
	char		mark[FLEXIBLE_ARRAY_MEMBER];	/* a part of its text */
} CqrsHeld;

/* An event that waits for poll(). */
typedef struct CqrsReady
{
	dlist_node	node;
	CqrsDelivery *delivery;
} CqrsReady;

/* What a consumer has asked the server. */
typedef enum CqrsQuestion
{
	CQRS_ASKS_NOTHING,
	CQRS_ASKS_SUBSCRIBE,		/* begin */
	CQRS_ASKS_MESSAGES,			/* acknowledge, and give what is there */
	CQRS_ASKS_WAIT				/* say when there is something */
} CqrsQuestion;

typedef struct CqrsConsumer
{
	char	   *queue;			/* NULL: no subscription yet */
	char	   *queue_lease;
	char	   *delivered;		/* key of the number of its deliveries */
	Size		max_delivery;
	MemoryContext deliveries;
	CqrsQuestion asks;
	bool		begins;			/* subscribe() was called */
	bool		subscribed;		/* and answered */
	bool		begun;			/* SUBSCRIBED is to be returned */
	bool		ends;			/* unsubscribe() was called */
	bool		may_wait;		/* the queue has nothing else */
	int			window;
	uint64		last_tag;
	uint64		tag_before;		/* the last one before the subscription */
	uint64		acknowledged_tag;
	int64		redelivered;	/* so many of the next have been delivered */
	int			nheld;
	int			nacknowledged;	/* of these */
	int			nsent;			/* of these, in the last question */
	int			nasked;			/* messages, in the last question */
	dlist_head	held;			/* CqrsHeld, oldest first */
	dlist_head	ready;			/* CqrsReady */
	TimestampTz ask_at;			/* not earlier */
	TimestampTz asked_at;
	CqrsFailure failure;		/* a delivery that cannot be accepted */
	bool		failed;
} CqrsConsumer;

struct CqrsConnection
{
	MemoryContext context;		/* of this and all that belongs to it */
	CqrsSocket *sock;
	CqrsReplyReader *reader;
	int			heartbeat_s;	/* 0: none */
	int			timeout_ms;		/* of a command that is waited for */
	bool		more;			/* poll() may have left input unread */
	CqrsBatchText text;
	CqrsBatchRoute route;

	/* A command that is waited for; no batch begins meanwhile. */
	StringInfoData command;
	Size		command_sent;	/* bytes */

	CqrsBatchOwner owner;
	const char *advice;			/* as of advice() in transport.h */

	/*
	 * Batches by their numbers, 1, 2, ...: oldest <= released <= awaited <=
	 * sending <= filling
	 */
	CqrsBatch  *batches[CQRS_REDIS_BATCHES];
	uint64		oldest;			/* events of it are to be returned */
	uint64		released;		/* not to be reported: there are too few
								 * replicas, or it is awaited */
	uint64		awaited;		/* whose reply is next */
	uint64		sending;		/* which is being sent, or is sent next */
	uint64		filling;		/* which takes messages */
	bool		started;		/* a part of the one being sent is sent */
	uint64		published;		/* messages, so the last tag */
	TimestampTz started_at;		/* when the last one was begun */

	CqrsRedisFlow flow;
	int			ignored;		/* replies to ignore in CQRS_FLOW_DRAIN */
	bool		by_text;		/* the server may lack the script */
	TimestampTz retry_at;
	bool		blocked;		/* BLOCKED was returned */
	bool		unblocked;		/* UNBLOCKED is to be returned */
	char		reason[256];	/* BLOCKED is to be returned, or "" */
	bool		declared;		/* DECLARED is to be returned */
	bool		probing;		/* from declare() to the probe's last event */

	bool		consumes;
	CqrsConsumer consumer;
	char		chunk[CQRS_BATCH_CHUNK_BYTES];
};

/* in redis_handshake.c */

/* Log in and take the lease. */
extern bool cqrs_redis_log_in(CqrsConnection *connection,
							  const CqrsConnectOptions *options,
							  CqrsFailure *failure);

/* Give up the lease; with "wait", wait a little for the answer. */
extern void cqrs_redis_drop_lease(CqrsConnection *connection, bool wait);

/*
 * Send a command and wait for its reply.  Returns NULL on failure, an error
 * reply included.  The text of the failure begins with "action", for example
 * "could not take the lease".
 */
extern const CqrsReply *cqrs_redis_command(CqrsConnection *connection,
										   const char *action,
										   CqrsFailure *failure,
										   int nwords,
										   const char *const *words);

/*
 * Like cqrs_redis_command(), but an error reply is returned.  After NULL the
 * connection is of no use any more: the reply may still come.
 */
extern const CqrsReply *cqrs_redis_try(CqrsConnection *connection,
									   const char *action,
									   CqrsFailure *failure, int nwords,
									   const char *const *words);

/*
 * Fill in a failure because of a reply to a command that has not been sent
 * completely.  An error may be why the server reads no more of the command.
 */
extern void cqrs_redis_too_early(const CqrsReply *reply, const char *action,
								 CqrsFailure *failure);

/* Begin to write a command, word by word; there must be none yet. */
extern void cqrs_redis_begin_command(CqrsConnection *connection, int nwords);
extern void cqrs_redis_put_word(CqrsConnection *connection, const char *word,
								Size length);

/* As in transport.h. */
extern bool cqrs_redis_read_mark(CqrsConnection *connection, const char *name,
								 char *text, Size size, CqrsFailure *failure);
extern bool cqrs_redis_write_mark(CqrsConnection *connection,
								  const char *name, const char *text,
								  CqrsFailure *failure);

/* in redis_advice.c */

/*
 * Read the settings of the server that advice() is about, as far as the server
 * shows them.  Waits.  Returns false if the connection has failed.
 */
extern bool cqrs_redis_read_settings(CqrsConnection *connection,
									 CqrsFailure *failure);

/* As in transport.h. */
extern const char *cqrs_redis_advice(const CqrsConnection *connection);

/* in redis_publish.c */

/* As in transport.h. */
extern bool cqrs_redis_can_publish(CqrsConnection *connection);
extern void cqrs_redis_publish(CqrsConnection *connection,
							   const CqrsEnvelope *envelope);
extern bool cqrs_redis_can_probe(CqrsConnection *connection);
extern void cqrs_redis_declare(CqrsConnection *connection,
							   const char *exchange);
extern void cqrs_redis_probe(CqrsConnection *connection,
							 const CqrsEnvelope *envelope);

/* Begin the first batch, once the connection is there. */
extern void cqrs_redis_init_batches(CqrsConnection *connection);

/*
 * Send what the socket takes: the command, then batches unless "commands_only".
 * Returns false if the connection is gone.
 */
extern bool cqrs_redis_flush(CqrsConnection *connection, bool commands_only);

/* Whether there is output that the socket has not taken. */
extern bool cqrs_redis_pending(CqrsConnection *connection);

/* Whether the reply to a batch is awaited. */
extern bool cqrs_redis_awaits(const CqrsConnection *connection);

/* When a batch is due, as a wait in ms; -1: never. */
extern long cqrs_redis_due_ms(const CqrsConnection *connection);

/* The place of a batch. */
extern CqrsBatch *cqrs_redis_batch_of(CqrsConnection *connection,
									  uint64 number);

/* in redis_answer.c */

/*
 * Note a reply to a batch.  Returns false, with "failure", if no batch awaits
 * the reply, or the server could not read the batch.
 */
extern bool cqrs_redis_handle_reply(CqrsConnection *connection,
									const CqrsReply *reply,
									CqrsFailure *failure);

/* The next event of replies that have been noted, if there is one. */
extern bool cqrs_redis_next_event(CqrsConnection *connection,
								  CqrsEvent *event, CqrsFailure *failure);

/* in redis_consume.c */

/* As in transport.h. */
extern void cqrs_redis_subscribe(CqrsConnection *connection,
								 const char *queue, int window);
extern void cqrs_redis_unsubscribe(CqrsConnection *connection);
extern void cqrs_redis_acknowledge(CqrsConnection *connection, uint64 tag);

/* Set whether the connection consumes, and where deliveries go. */
extern void cqrs_redis_init_consumer(CqrsConnection *connection,
									 const CqrsConnectOptions *options);

/* Ask the server something, if that is due and nothing is being asked. */
extern void cqrs_redis_ask(CqrsConnection *connection);

/* Whether an answer is awaited. */
extern bool cqrs_redis_asks(const CqrsConnection *connection);

/* Note an answer.  Returns false, with "failure", if it is a failure. */
extern bool cqrs_redis_handle_answer(CqrsConnection *connection,
									 const CqrsReply *reply,
									 CqrsFailure *failure);

/* The next event of answers that have been noted, if there is one. */
extern bool cqrs_redis_next_consumed(CqrsConnection *connection,
									 CqrsEvent *event, CqrsFailure *failure);

/* When something is to be asked, as a wait in ms; -1: never. */
extern long cqrs_redis_ask_ms(const CqrsConnection *connection);

/* Send acknowledgements, and wait a little for the answer. */
extern void cqrs_redis_acknowledge_last(CqrsConnection *connection);

/* in redis_queue.c */

/* As in transport.h. */
extern bool cqrs_redis_prepare_queue(CqrsConnection *connection,
									 const CqrsQueue *queue,
									 CqrsFailure *failure);
extern bool cqrs_redis_unbind(CqrsConnection *connection,
							  const CqrsQueue *queue, CqrsFailure *failure);
extern bool cqrs_redis_delete_queue(CqrsConnection *connection,
									const char *queue, CqrsFailure *failure);

/* in redis_error.c */

typedef enum CqrsRedisRemedy
{
	CQRS_REMEDY_NONE,			/* the connection, or a probe, has failed */
	CQRS_REMEDY_WAIT,			/* the same again after a while */
	CQRS_REMEDY_TEXT			/* the same again with the script's text */
} CqrsRedisRemedy;

/* What to do after an error, and who is to blame. */
extern CqrsRedisRemedy cqrs_redis_remedy(const char *error);
extern CqrsBlame cqrs_redis_blame(const char *error, bool of_message);

/*
 * Fill in a failure because of an error.  Its text begins with "action", for
 * example "could not publish".
 */
extern void cqrs_redis_fail(CqrsFailure *failure, bool of_message,
							const char *action, const char *error);

#endif							/* CQRS_REDIS_H */
