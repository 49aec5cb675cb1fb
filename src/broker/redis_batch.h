/*-------------------------------------------------------------------------
 *
 * redis_batch.h
 *	  Messages that are sent to a Redis server by one request.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_REDIS_BATCH_H
#define CQRS_REDIS_BATCH_H

#include "postgres.h"

#include "lib/stringinfo.h"

#include "broker/redis_reply.h"
#include "broker/transport.h"

#define CQRS_BATCH_MESSAGES 200
/* Different routing keys of a batch, and of a route, that are remembered. */
#define CQRS_BATCH_KEYS 16
#define CQRS_ROUTE_KEYS 64
/* Commands of a request, at most: see redis_batch.c. */
#define CQRS_BATCH_COMMANDS 5
/* A hash as hexadecimal digits, with a zero. */
#define CQRS_BATCH_HASH_BYTES 41
/* The end of an envelope, which differs between queues, with a zero. */
#define CQRS_BATCH_TAIL_BYTES 13

/* The end of an envelope of no queue. */
#define CQRS_BATCH_NO_TAIL "-00000000\"}}"
/* The buffer of a batch, and what of it is for what comes before messages. */
#define CQRS_BATCH_DATA_BYTES	(268 * 1024)
#define CQRS_BATCH_HEADER_BYTES (8 * 1024)
/* The commands of a transaction. */
#define CQRS_BATCH_DIRECT_COMMANDS 4

/* The outcome of a message. */
typedef enum CqrsBatchOutcome
{
	CQRS_BATCH_OUTCOME_TAKEN,
	CQRS_BATCH_OUTCOME_UNROUTABLE,	/* taken, but there is no queue for it */
	CQRS_BATCH_OUTCOME_REFUSED	/* a queue is full */
} CqrsBatchOutcome;

/* A batch; its request is kept until the reply is handled. */
typedef struct CqrsBatch
{
	char	   *data;			/* envelopes, as arguments */
	Size		start;			/* of the request, once it is sealed */
	Size		end;			/* of the envelopes */
	Size		stop;			/* of the request */
	StringInfoData keys;		/* routing keys, as arguments */
	int			nkeys;			/* different ones; more than CQRS_BATCH_KEYS:
								 * unknown */
	int			key_at[CQRS_BATCH_KEYS];	/* where they are in keys */
	int			key_lengths[CQRS_BATCH_KEYS];
	bool		direct;			/* sealed so */
	int			ncommands;		/* of the request; each has one reply */
	Size		ends[CQRS_BATCH_COMMANDS];	/* where they end in data */
	const char *body;			/* of the last message, in Base64 at "hole";
								 * or NULL */
	Size		body_length;
	Size		hole;
	Size		next;			/* byte of data to be sent */
	Size		body_next;		/* byte of the body */
	Size		chunk_start;	/* unsent rest of an encoded part of the body */
	Size		chunk_end;

	int			count;			/* messages */
	uint64		first_tag;		/* of the first one */
	bool		probe;			/* one message, without tag */
	bool		limited;		/* queues may be full */
	char		exchange[256];
	char		tail[CQRS_BATCH_TAIL_BYTES];	/* of its envelopes */
	uint32		ids[CQRS_BATCH_MESSAGES];	/* where their ids are in data */
	uint32		id_lengths[CQRS_BATCH_MESSAGES];

	int			replied;		/* commands */
	int			done;			/* so many messages have an outcome: */
	CqrsBatchOutcome outcomes[CQRS_BATCH_MESSAGES];
	char		full[256];		/* a queue that was full */
	char		right_tail[CQRS_BATCH_TAIL_BYTES];	/* of a queue's envelopes,
													 * if "tail" was not it;
													 * or "" */
	char		queue[256];		/* to which all messages went, or "" */
	char		bindings[CQRS_BATCH_HASH_BYTES];	/* the hash of these then */
	bool		stopped;		/* the next message was refused, not the whole
								 * batch */
	char		error[256];		/* why, or "" */

	int			told;			/* messages, of which poll() has returned that
								 * they are unroutable */
	int			settled;		/* or that they are taken or refused */
} CqrsBatch;

/* What the requests of a connection have in common. */
typedef struct CqrsBatchOwner
{
	const char *lease;			/* the key of the lease */
	const char *name;			/* of the owner: a server process */
	const char *epoch;			/* of this connection */
	const char *token;			/* both; NULL before the lease is taken */
	bool		transactions;	/* it may use them */
	int			lease_ms;		/* its time to live */
	int			queue_limit;	/* messages in a queue; 0: no limit */
	int			replicas;		/* which have to have a message; 0: none */
	int			replicas_ms;	/* how long the server waits for them */
} CqrsBatchOwner;

/* The queue of the last messages, if it was the same for all of them. */
typedef struct CqrsBatchRoute
{
	char		exchange[256];
	char		queue[256];		/* "": not known */
	char		tail[CQRS_BATCH_TAIL_BYTES];	/* of its envelopes */
	char		bindings[CQRS_BATCH_HASH_BYTES];	/* hash of the exchange's */
	int			nkeys;			/* so many were added: */
	char		keys[CQRS_ROUTE_KEYS][256]; /* routing keys with that queue */
} CqrsBatchRoute;

/* A batch in "context", which is to be begun. */
extern CqrsBatch *cqrs_redis_batch_create(MemoryContext context);

/* Begin an empty batch. */
extern void cqrs_redis_batch_begin(CqrsBatch *batch, uint64 first_tag);

/* Whether any message can be added, apart from its exchange. */
extern bool cqrs_redis_batch_has_room(const CqrsBatch *batch);

/* The text that envelopes have in common, one after another. */
typedef struct CqrsBatchText
{
	char		exchange[256];
	char		routing_key[256];
	int64		time;			/* 0: there is no text yet */
	char		tail[CQRS_BATCH_TAIL_BYTES];	/* probably */
	StringInfoData common;
	StringInfoData own;			/* of one envelope */
} CqrsBatchText;

/* Add a message, for which there is room. */
extern void cqrs_redis_batch_add(CqrsBatch *batch, const CqrsEnvelope *envelope,
								 CqrsBatchText *text);

/*
 * Finish the request of batch "number", or make it anew: direct if the route
 * is that of all its messages, else by the script.  If replicas count, the
 * reply to the last command is the number of replicas that have everything
 * sent so far.  With "by_text" the server is given the script, else the
 * script's hash.
 */
extern void cqrs_redis_batch_seal(CqrsBatch *batch, const CqrsBatchOwner *owner,
								  const CqrsBatchRoute *route, uint64 number,
								  bool by_text);

/*
 * Remember the queue of the messages of a batch, if it is the same for all of
 * them.
 */
extern void cqrs_redis_route_learn(CqrsBatchRoute *route,
								   const CqrsBatch *batch);

/*
 * The next bytes of the request, "*length" of them, NULL at its end; parts of
 * a body are encoded into "chunk", which has CQRS_BATCH_CHUNK_BYTES and stays
 * as it is until they are sent.  advance() notes that bytes have been sent.
 */
#define CQRS_BATCH_CHUNK_BYTES (64 * 1024 + 1)

extern const char *cqrs_redis_batch_next(CqrsBatch *batch, char *chunk,
										 Size *length);
extern void cqrs_redis_batch_advance(CqrsBatch *batch, Size length);

/* How many commands of the request are sent completely. */
extern int	cqrs_redis_batch_sent(const CqrsBatch *batch);

/*
 * Note the next reply to the batch, but not the number of replicas.  Returns
 * false if no server can have given this reply.
 */
extern bool cqrs_redis_batch_answer(CqrsBatch *batch, const CqrsReply *reply);

/* Whether the outcomes of the messages are known. */
extern bool cqrs_redis_batch_is_answered(const CqrsBatch *batch);

#endif							/* CQRS_REDIS_BATCH_H */
