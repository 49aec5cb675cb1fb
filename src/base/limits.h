/*-------------------------------------------------------------------------
 *
 * limits.h
 *	  Limits that more than one folder keeps to.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_LIMITS_H
#define CQRS_LIMITS_H

/* The most processes of one kind that a database can have: its lanes. */
#define CQRS_MAX_LANES	16

/*
 * AMQP 0-9-1: exchange names, routing keys and the property correlation-id are
 * short strings.
 */
#define CQRS_SHORTSTR_BYTES	255

/*
 * Of a cqrs_id, and of the queue that a SYNC is sent to.  The routing key of that
 * SYNC is "cqrs.<queue>.<cqrs_id>", a short string.
 */
#define CQRS_ID_BYTES	120
#define CQRS_SYNC_QUEUE_BYTES	128
StaticAssertDecl(sizeof("cqrs..") - 1 + CQRS_SYNC_QUEUE_BYTES + CQRS_ID_BYTES <=
				 CQRS_SHORTSTR_BYTES, "routing keys are short strings");

#endif							/* CQRS_LIMITS_H */
