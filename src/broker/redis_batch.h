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
/* The end of an envelope, which differs between queues, with a zero. */
#define CQRS_BATCH_TAIL_BYTES 13

/* What has become of a message. */
typedef enum CqrsBatchOutcome
{
	CQRS_OUTCOME_TAKEN,
	CQRS_OUTCOME_UNROUTABLE,	/* taken, but there is no queue for it */
	CQRS_OUTCOME_REFUSED		/* a queue is full */
} CqrsBatchOutcome;

/* A batch; its request is kept until the reply is handled. */
typedef struct CqrsBatch
{
	char	   *data;			/* arguments of the messages */
	Size		start;			/* of the request, once it is sealed */
	Size		end;			/* of the script's arguments */
	Size		stop;			/* of the request */
	const char *body;			/* of the last message, in Base64 at "hole";
								 * or NULL */
	Size		body_length;
	Size		hole;
	Size		next;			/* byte of data to be sent */
	Size		body_next;		/* byte of the body */
	Size		chunk_start;	/* unsent rest of an encoded part of the
								 * body */
	Size		chunk_end;

	int			count;			/* messages */
	uint64		first_tag;		/* of the first one */
	bool		probe;			/* one message, without tag */
	bool		limited;		/* queues may be full */
	char		exchange[256];
	char		tail[CQRS_BATCH_TAIL_BYTES];	/* of its envelopes */
	uint32		ids[CQRS_BATCH_MESSAGES];	/* where their ids are in data */
	uint32		id_lengths[CQRS_BATCH_MESSAGES];

	bool		answered;		/* the reply has arrived: */
	int			done;			/* so many messages have an outcome: */
	CqrsBatchOutcome outcomes[CQRS_BATCH_MESSAGES];
	char		full[256];		/* a queue that was full */
	char		right_tail[CQRS_BATCH_TAIL_BYTES];	/* of a queue's envelopes, if
													 * "tail" was not it; or "" */
	bool		stopped;		/* the next message was refused, not the
								 * whole batch */
	char		error[256];		/* why, or "" */

	int			told;			/* messages, of which poll() has returned
								 * that they are unroutable */
	int			settled;		/* or that they are taken or refused */
} CqrsBatch;

/* What the requests of a connection have in common. */
typedef struct CqrsBatchOwner
{
	const char *lease;			/* the key of the lease */
	const char *name;			/* of the owner: a server process */
	const char *epoch;			/* of this connection */
	const char *token;			/* both; NULL before the lease is taken */
	int			lease_ms;		/* its time to live */
	int			queue_limit;	/* messages in a queue; 0: no limit */
	int			replicas;		/* which have to have a message; 0: none */
	int			replicas_ms;	/* how long the server waits for them */
} CqrsBatchOwner;

/* A batch in "context", which is to be begun. */
extern CqrsBatch *cqrs_redis_batch_create(MemoryContext context);

/* Begin an empty batch. */
extern void cqrs_redis_batch_begin(CqrsBatch *batch, uint64 first_tag);

/* Whether any message can be added, apart from its exchange. */
extern bool cqrs_redis_batch_has_room(const CqrsBatch *batch);

/* The text of what envelopes have in common, one after another. */
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
 * Finish the request of batch "number", or make it anew.  If replicas count, it
 * has a second command, whose reply is how many have what was sent so far.  With "by_text" the
 * server is given the script, else the script's hash.
 */
extern void cqrs_redis_batch_seal(CqrsBatch *batch, const CqrsBatchOwner *owner,
							uint64 number, bool by_text);

/*
 * The next bytes of the request, "*length" of them, NULL at its end; parts of
 * a body are encoded into "chunk", which has CQRS_BATCH_CHUNK_BYTES and stays
 * as it is until they are sent.  advance() notes that bytes have been sent.
 */
#define CQRS_BATCH_CHUNK_BYTES (64 * 1024 + 1)

extern const char *cqrs_redis_batch_next(CqrsBatch *batch, char *chunk,
								   Size *length);
extern void cqrs_redis_batch_advance(CqrsBatch *batch, Size length);

/* Whether the request is sent as far as its first command goes. */
extern bool cqrs_redis_batch_script_sent(const CqrsBatch *batch);

/*
 * Note the reply to the batch.  Returns false if it is none that the script
 * can have given.
 */
extern bool cqrs_redis_batch_answer(CqrsBatch *batch, const CqrsReply *reply);

#endif							/* CQRS_REDIS_BATCH_H */
