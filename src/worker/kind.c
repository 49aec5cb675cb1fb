/*-------------------------------------------------------------------------
 *
 * kind.c
 *	  Kinds of workers, and what each of them does: its class.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "worker/kind.h"

static const CqrsWorkerClass *classes[CQRS_NWORKERKINDS];

void
cqrs_kind_register(CqrsWorkerKind kind, const CqrsWorkerClass *class)
{
	classes[kind] = class;
}

const CqrsWorkerClass *
cqrs_kind_class(CqrsWorkerKind kind)
{
	return classes[kind];
}
