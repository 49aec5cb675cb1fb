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
 * Raise an error unless the user may see the result of the master's
 * serializer, if it has one.
 */
extern void cqrs_instance_data_check_owner(const CqrsRelation *relation,
										   const CqrsMaster *master);

/*
 * The instance_data of rows in results[], as messages of a master have it.
 * For functions that show instance_data; call cqrs_instance_data_check_owner()
 * before.
 */
extern void cqrs_instance_data(Relation rel, const CqrsRelation *relation,
							   CqrsMaster *master, HeapTuple *rows, int nrows,
							   char **results);

/*
 * The same, made by the master's serializer, in one call for all rows if it
 * takes many at once.  Errors name the subject, which is the first row.
 */
extern void cqrs_instance_data_serialize(const CqrsHookSubject *subject,
										 Relation rel, HeapTuple *rows, int nrows,
										 char **results);

/*
 * The instance_data of a DELETE of the row that replicas know as *first and
 * whose last state is *last.  Hooks get "row".
 */
extern char *cqrs_instance_data_deleted(const CqrsHookSubject *subject,
										HeapTuple row, const CqrsRow *first,
										const CqrsRow *last);

#endif							/* CQRS_INSTANCE_DATA_H */
