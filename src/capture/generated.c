/*-------------------------------------------------------------------------
 *
 * generated.c
 *	  Values of generated columns, before PostgreSQL has computed them.
 *
 * PostgreSQL computes generated columns after the BEFORE UPDATE triggers.
 * Ours has to know whether the row will change.  If none of the columns that
 * the expression uses has changed, its value has not either.  Otherwise the
 * value is computed here as well, with the rights of the writer, as PostgreSQL
 * is about to do.
 *
 * The field keeps the expression as it is stored.  The expression is planned
 * for each row, because functions that it calls may be replaced.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/sysattr.h"
#include "executor/executor.h"
#include "nodes/bitmapset.h"
#include "optimizer/optimizer.h"
#include "rewrite/rewriteHandler.h"
#include "utils/datum.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "capture/generated.h"

struct CqrsGenerated
{
	Node	   *expression;
	Bitmapset  *columns;		/* used, as pull_varattnos() has them */
};

static struct CqrsGenerated *look_up(Relation rel, AttrNumber attnum);
static bool any_differs(TupleDesc desc, Bitmapset *columns, HeapTuple a,
						HeapTuple b);
static Datum compute(TupleDesc desc, const Node *expression, HeapTuple row,
					 bool *isnull);
static bool same(Form_pg_attribute att, Datum a, bool a_null, Datum b,
				 bool b_null);

bool
cqrs_generated_differs(Relation rel, CqrsField *fields, CqrsField *field,
					   HeapTuple old, HeapTuple new)
{
	TupleDesc	desc = RelationGetDescr(rel);
	Datum		old_value;
	Datum		new_value;
	bool		old_null;
	bool		new_null;

	if (field->generated == NULL)
	{
		MemoryContext caller = MemoryContextSwitchTo(GetMemoryChunkContext(fields));

		field->generated = look_up(rel, field->attnum);
		MemoryContextSwitchTo(caller);
	}
	if (!any_differs(desc, field->generated->columns, old, new))
		return false;

	old_value = heap_getattr(old, field->attnum, desc, &old_null);
	new_value = compute(desc, field->generated->expression, new, &new_null);
	return !same(TupleDescAttr(desc, field->attnum - 1), old_value, old_null,
				 new_value, new_null);
}

/* The expression of a generated column, and the columns that it uses. */
static struct CqrsGenerated *
look_up(Relation rel, AttrNumber attnum)
{
	struct CqrsGenerated *generated = palloc0(sizeof(struct CqrsGenerated));

	generated->expression = build_column_default(rel, attnum);
	pull_varattnos(generated->expression, 1, &generated->columns);
	return generated;
}

/* Whether any of some columns differs between two versions of a row. */
static bool
any_differs(TupleDesc desc, Bitmapset *columns, HeapTuple a, HeapTuple b)
{
	int			column = -1;

	while ((column = bms_next_member(columns, column)) >= 0)
	{
		AttrNumber	attnum = column + FirstLowInvalidHeapAttributeNumber;
		Datum		a_value;
		Datum		b_value;
		bool		a_null;
		bool		b_null;

		/* The whole row cannot be used, and tableoid is the same. */
		if (attnum <= 0)
			continue;
		a_value = heap_getattr(a, attnum, desc, &a_null);
		b_value = heap_getattr(b, attnum, desc, &b_null);
		if (!same(TupleDescAttr(desc, attnum - 1), a_value, a_null, b_value,
				  b_null))
			return true;
	}
	return false;
}

/* The value that a generated column has in a row. */
static Datum
compute(TupleDesc desc, const Node *expression, HeapTuple row, bool *isnull)
{
	TupleTableSlot *slot = MakeSingleTupleTableSlot(desc, &TTSOpsHeapTuple);
	ExprContext *econtext = CreateStandaloneExprContext();
	Expr	   *plan = expression_planner((Expr *) copyObject(expression));
	ExprState  *state = ExecInitExpr(plan, NULL);
	Datum		value;

	ExecStoreHeapTuple(row, slot, false);
	slot->tts_tableOid = row->t_tableOid;
	econtext->ecxt_scantuple = slot;
	value = ExecEvalExpr(state, econtext, isnull);
	FreeExprContext(econtext, true);
	ExecDropSingleTupleTableSlot(slot);
	return value;
}

/* Whether two values of a column have the same binary image. */
static bool
same(Form_pg_attribute att, Datum a, bool a_null, Datum b, bool b_null)
{
	return a_null == b_null &&
		(a_null || datum_image_eq(a, b, att->attbyval, att->attlen));
}
