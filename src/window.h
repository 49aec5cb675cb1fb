/*-------------------------------------------------------------------------
 *
 * window.h
 *	  Messages between the outbox and their confirms.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_WINDOW_H
#define CQRS_WINDOW_H

#include "postgres.h"

#include "datatype/timestamp.h"

/* A message in the window; one palloc'd piece of memory. */
typedef struct CqrsOutgoing
{
	int64		id;
	bool		confirmed;
	TimestampTz committed_at;
	Size		size;			/* of all of it */
	char	   *exchange;		/* UTF-8, as all strings; NULL: cqrs.exchange */
	char	   *routing_key;
	char	   *correlation_id; /* or NULL */
	char	   *body;
	int			body_length;
	int			expires_at;		/* offset of "expires" in body, or -1 */
	int			ttl_s;			/* what it is to be stamped with */
} CqrsOutgoing;

typedef struct CqrsWindow CqrsWindow;

extern CqrsWindow *cqrs_window_create(void);

/* The numbers of messages that wait to be sent, and that wait for confirms. */
extern int	cqrs_window_unsent(const CqrsWindow *window);
extern int	cqrs_window_unconfirmed(const CqrsWindow *window);

/* Bytes held. */
extern Size cqrs_window_bytes(const CqrsWindow *window);

/* Whether there is room for another message, within the settings. */
extern bool cqrs_window_has_room(const CqrsWindow *window);

/* Append a message, which the window owns from now on; there has to be room. */
extern void cqrs_window_push(CqrsWindow *window, CqrsOutgoing *message);

/* The next message to send, or NULL; and that it has been. */
extern CqrsOutgoing *cqrs_window_next_unsent(CqrsWindow *window);
extern void cqrs_window_sent(CqrsWindow *window);

/*
 * A confirm for the message that was the tag-th to be sent since the last
 * rewind, or with "multiple" for all up to it.  Returns how many were news.
 */
extern int	cqrs_window_confirm(CqrsWindow *window, uint64 tag, bool multiple);

/* Start again with the first message that is not confirmed. */
extern void cqrs_window_rewind(CqrsWindow *window);

/* The lowest id in the window, PG_INT64_MAX when it is empty. */
extern int64 cqrs_window_min_id(const CqrsWindow *window);

#endif							/* CQRS_WINDOW_H */
