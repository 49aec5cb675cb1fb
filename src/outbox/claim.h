/*-------------------------------------------------------------------------
 *
 * claim.h
 *	  What the databases of a server publish, so that two of them notice that
 *	  they publish the same.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_CLAIM_H
#define CQRS_CLAIM_H

#include "postgres.h"

/* The most claims of a database; further masters are not compared. */
#define CQRS_MAX_CLAIMS	512

/*
 * Stands for the messages of a master: for its cqrs_id, its exchange (NULL:
 * cqrs.exchange) and the broker of cqrs.url.  0 if there is no URL.
 */
typedef uint64 CqrsClaim;

extern CqrsClaim cqrs_claim_make(const char *cqrs_id, const char *exchange);

/*
 * Replace the claims of the database with this slot; CQRS_MAX_CLAIMS at most.
 * Sorts "claims".
 */
extern void cqrs_claim_set(int slot, CqrsClaim *claims, int count);

/* Another database of the server with this claim, or InvalidOid. */
extern Oid	cqrs_claim_find_other(CqrsClaim claim);

/* Ask for the shared memory; called once, while the library is preloaded. */
extern void cqrs_claim_init(void);

#endif							/* CQRS_CLAIM_H */
