/*-------------------------------------------------------------------------
 *
 * inbox.h
 *	  Messages that have been received and not acknowledged.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_INBOX_H
#define CQRS_INBOX_H

#include "postgres.h"

#include "broker/transport.h"

typedef struct CqrsInbox CqrsInbox;

/* An inbox, in TopMemoryContext. */
extern CqrsInbox *cqrs_inbox_create(void);

/* The context that deliveries are to be allocated in. */
extern MemoryContext cqrs_inbox_context(const CqrsInbox *inbox);

/* Append a delivery.  The inbox owns it from now on. */
extern void cqrs_inbox_push(CqrsInbox *inbox, CqrsDelivery *delivery);

/*
 * Up to "most" deliveries from the beginning, whose bodies have up to
 * "most_bytes"; the first one whatever its size.  Returns how many.  They stay
 * in the inbox.
 */
extern int	cqrs_inbox_peek(const CqrsInbox *inbox, CqrsDelivery **deliveries,
							int most, Size most_bytes);

/* Remove the deliveries up to that tag. */
extern void cqrs_inbox_remove(CqrsInbox *inbox, uint64 tag);

/* Remove all: the connection that they came by is closed. */
extern void cqrs_inbox_clear(CqrsInbox *inbox);

/* How many deliveries there are, and the bytes of their bodies. */
extern int	cqrs_inbox_count(const CqrsInbox *inbox);
extern Size cqrs_inbox_bytes(const CqrsInbox *inbox);

#endif							/* CQRS_INBOX_H */
