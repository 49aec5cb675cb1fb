/*-------------------------------------------------------------------------
 *
 * compose.h
 *	  From what has become of a row to the messages of its masters.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_COMPOSE_H
#define CQRS_COMPOSE_H

#include "postgres.h"

#include "compose/serialize.h"
#include "master/relation.h"
#include "outbox/outbox.h"

typedef struct CqrsComposer CqrsComposer;

/* A composer writes to the outbox; it lives in the current context. */
extern CqrsComposer *cqrs_compose_begin(void);

/* Write the drafts that wait, and return how many messages were made. */
extern int64 cqrs_compose_end(CqrsComposer *composer);

/* Give all further messages ids that no transaction could draw before now. */
extern void cqrs_compose_draw_batch(CqrsComposer *composer);

/*
 * The table, or partition, whose rows come next, until leave().  If it has
 * hooks, its owner's rights are in effect between the two calls.
 */
extern void cqrs_compose_enter(CqrsComposer *composer, Relation rel,
							   const CqrsRelation *relation);
extern void cqrs_compose_leave(CqrsComposer *composer);

/*
 * SAVE for all masters of the table; "before" is NULL for a row that is new to
 * replicas.  Everything is copied.
 */
extern void cqrs_compose_saved(CqrsComposer *composer, const CqrsRow *before,
							   const CqrsRow *after);

/* The same for one master. */
extern void cqrs_compose_master_saved(CqrsComposer *composer,
									  CqrsMaster *master,
									  const CqrsRow *before,
									  const CqrsRow *after);

/*
 * DELETE of the row that replicas know as *first and whose last state is
 * *last.
 */
extern void cqrs_compose_deleted(CqrsComposer *composer, const CqrsRow *first,
								 const CqrsRow *last);

/* The same for one master. */
extern void cqrs_compose_master_deleted(CqrsComposer *composer,
										CqrsMaster *master,
										const CqrsRow *first,
										const CqrsRow *last);

/* SYNC of one master to one queue, or to all queues if "queue" is NULL. */
extern void cqrs_compose_resent(CqrsComposer *composer, CqrsMaster *master,
								const char *queue, const CqrsRow *row);

/* Write a message that was made before again, under a new id. */
extern void cqrs_compose_again(CqrsComposer *composer,
							   const CqrsMessage *message);

#endif							/* CQRS_COMPOSE_H */
