/*-------------------------------------------------------------------------
 *
 * redis_reply.h
 *	  Replies of a Redis server, read from a socket.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_REDIS_REPLY_H
#define CQRS_REDIS_REPLY_H

#include "postgres.h"

#include "datatype/timestamp.h"

#include "broker/socket.h"

typedef enum CqrsReplyType
{
	CQRS_REPLY_NIL,
	CQRS_REPLY_INTEGER,
	CQRS_REPLY_TEXT,			/* a string, or a status */
	CQRS_REPLY_ERROR,
	CQRS_REPLY_ARRAY
} CqrsReplyType;

typedef struct CqrsReply
{
	CqrsReplyType type;
	int64		integer;
	Size		length;			/* of text */
	char	   *text;			/* TEXT, ERROR; a zero follows */
	int			nelements;		/* ARRAY */
	struct CqrsReply *elements;
} CqrsReply;

typedef struct CqrsReplyReader CqrsReplyReader;

/* A reader in "context".  Larger replies than "max_bytes" are failures. */
extern CqrsReplyReader *cqrs_redis_reply_create(MemoryContext context,
												CqrsSocket *sock,
												Size max_bytes);

/* Replies are the context's, and stay. */
extern void cqrs_redis_reply_destroy(CqrsReplyReader *reader);

/*
 * Read without waiting.  Returns 1 with the next reply, which stays until the
 * next call; 0 if no whole reply has arrived; -1 on failure.
 */
extern int	cqrs_redis_reply_read(CqrsReplyReader *reader, CqrsReply **reply);

/* Why reading has failed. */
extern const char *cqrs_redis_reply_error(const CqrsReplyReader *reader);

/* When something arrived last. */
extern TimestampTz cqrs_redis_reply_received_at(const CqrsReplyReader *reader);

#endif							/* CQRS_REDIS_REPLY_H */
