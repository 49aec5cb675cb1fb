/*-------------------------------------------------------------------------
 *
 * instance_data.h
 *	  The instance_data of messages.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_INSTANCE_DATA_H
#define CQRS_INSTANCE_DATA_H

#include "postgres.h"

#include "compose/hook.h"
#include "master/relation.h"
#include "master/row.h"

/*
 * An error unless the user may see what the serializer of a master, if it has
 * one, makes of rows.
 */
extern void cqrs_instance_check_owner(const CqrsRelation *relation,
									  const CqrsMaster *master);

/*
 * The instance_data of rows, as they are in messages of a master, in results[]:
 * for functions that show them, after the check above.
 */
extern void cqrs_instance_data(Relation rel, const CqrsRelation *relation,
							   CqrsMaster *master, HeapTuple *rows, int nrows,
							   char **results);

/*
 * The same by the master's serializer, in one call for all rows if it takes
 * many; errors name the subject, which is the first row.
 */
extern void cqrs_instance_serialize(const CqrsHookSubject *subject,
									Relation rel, HeapTuple *rows, int nrows,
									char **results);

/*
 * That of a DELETE of the row that replicas know as *first and that ended as
 * *last; "row" is what hooks get.
 */
extern char *cqrs_instance_deleted(const CqrsHookSubject *subject,
								   HeapTuple row, const CqrsRow *first,
								   const CqrsRow *last);

#endif							/* CQRS_INSTANCE_DATA_H */
