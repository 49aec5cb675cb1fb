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

#include "broker/transport.h"

/* A message in the window; one palloc'd piece of memory. */
typedef struct CqrsOutgoing
{
	int64		id;
	bool		confirmed;
	bool		withdrawn;		/* sent, but not to be sent again */
	bool		returned;		/* no queue was bound for it */
	const char *refusal;		/* why it is to be parked, or NULL */
	TimestampTz committed_at;
	Size		size;			/* of the piece of memory */
	char	   *cqrs_id;		/* in the database's encoding, others UTF-8 */
	char	   *exchange;		/* NULL: cqrs.exchange */
	char	   *routing_key;
	char	   *body;
	int			body_length;
	int			expires_at;		/* offset of "expires" in body, or -1 */
	int			ttl_s;			/* time to live, for "expires" */
	int			nproperties;
	CqrsProperty properties[FLEXIBLE_ARRAY_MEMBER];
} CqrsOutgoing;

typedef struct CqrsWindow CqrsWindow;

/* An empty window, in TopMemoryContext. */
extern CqrsWindow *cqrs_window_create(void);

/*
 * The number of messages that wait to be sent, and of those that wait for
 * confirms.
 */
extern int	cqrs_window_unsent(const CqrsWindow *window);
extern int	cqrs_window_unconfirmed(const CqrsWindow *window);

/* The bytes of all messages in the window. */
extern Size cqrs_window_bytes(const CqrsWindow *window);

/* Whether there is room for another message, within the settings. */
extern bool cqrs_window_has_room(const CqrsWindow *window);

/*
 * Append a message, for which there has to be room.  The window then owns it.
 */
extern void cqrs_window_push(CqrsWindow *window, CqrsOutgoing *message);

/* Write "expires" into the body of a message that is about to be sent. */
extern void cqrs_window_stamp(CqrsOutgoing *message);

/*
 * The next message to send, or NULL.  sent() notes that it has been sent.
 */
extern CqrsOutgoing *cqrs_window_next_unsent(CqrsWindow *window);
extern void cqrs_window_sent(CqrsWindow *window);

/*
 * Note a confirm for the message that was the tag-th to be sent since the last
 * rewind, or with "multiple" for all messages up to it.  Returns how many
 * messages were not confirmed before: 0 for a tag that was never given.
 */
extern int	cqrs_window_confirm(CqrsWindow *window, uint64 tag, bool multiple);

/* The message with a tag, NULL if it is confirmed. */
extern CqrsOutgoing *cqrs_window_by_tag(const CqrsWindow *window, uint64 tag);

/* The tag of the first message that is not confirmed. */
extern uint64 cqrs_window_first_tag(const CqrsWindow *window);

/* Start again with the first message that is not confirmed. */
extern void cqrs_window_rewind(CqrsWindow *window);

/*
 * Take a master's messages from "id" on out of the window.  Messages that have
 * been sent leave when they are confirmed or the window is rewound.
 */
extern void cqrs_window_withdraw(CqrsWindow *window, const char *cqrs_id,
								 int64 id);

/*
 * The message with the id "id", or NULL; the second one finds only messages in
 * flight.
 */
extern CqrsOutgoing *cqrs_window_find(const CqrsWindow *window, int64 id);
extern CqrsOutgoing *cqrs_window_find_sent(const CqrsWindow *window, int64 id);

/*
 * done() is the number of messages that have ever left the window by confirms.
 * sent_so_far() is the number that have been sent or confirmed.  Both only
 * grow, except that a rewind sets the latter back to the former.
 */
extern uint64 cqrs_window_confirmed_total(const CqrsWindow *window);
extern uint64 cqrs_window_sent_so_far(const CqrsWindow *window);

/* What done() will be when all messages in the window now are done. */
extern uint64 cqrs_window_end(const CqrsWindow *window);

/*
 * The broker rejects the first message, which is to be parked; "reason" is
 * copied.  refused() returns that message, or NULL.  remove_refused() removes
 * the message once it has been parked.
 */
extern void cqrs_window_refuse(CqrsWindow *window, const char *reason);
extern CqrsOutgoing *cqrs_window_refused(const CqrsWindow *window);
extern void cqrs_window_remove_refused(CqrsWindow *window);

/* The lowest id in the window, PG_INT64_MAX if it is empty. */
extern int64 cqrs_window_min_id(const CqrsWindow *window);

#endif							/* CQRS_WINDOW_H */
