/*-------------------------------------------------------------------------
 *
 * claim.c
 *	  What the databases of a server publish, so that two of them notice that
 *	  they publish the same.
 *
 * If two databases have a master of the same name and publish to the same
 * exchange of the same broker, a replica cannot tell their rows apart.  No
 * database can read the catalog of another one.  So the publisher of each
 * database leaves a hash for each of its masters in shared memory, for as long
 * as it runs (publish/announce.c), and backends look theirs up.
 *
 * Brokers are compared by hosts and path of their URLs, as these are written,
 * without user and password.  Two addresses of one broker are not recognised,
 * nor are names that are not ASCII in databases of different encodings: not
 * each name can be converted, and no name may end a publisher.  The number of claims is bounded: this is advice to a user, and nothing relies
 * on it.
 *
 * Protected by cqrs_slot_lock.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "commands/dbcommands.h"
#include "common/hashfn.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "base/guc.h"
#include "base/slot.h"
#include "base/url.h"
#include "outbox/claim.h"

PG_FUNCTION_INFO_V1(cqrs_sql_other_publisher);

typedef struct Claims
{
	int			count;
	CqrsClaim	claims[CQRS_MAX_CLAIMS];	/* sorted */
} Claims;

static Claims *by_slot;

static void append(StringInfo text, const char *part);
static int	compare(const void *a, const void *b);
static void reset(void *element);

void
cqrs_claim_init(void)
{
	static const CqrsSharedArray array = {
		.name = "cqrs claims",
		.size = sizeof(Claims),
		.by_slot = true,
		.elements = (void **) &by_slot,
		.reset = reset
	};

	cqrs_slot_add_array(&array);
}

CqrsClaim
cqrs_claim_make(const char *cqrs_id, const char *exchange)
{
	const char *url = cqrs_guc_url();
	StringInfoData text;
	CqrsClaim	claim;

	if (url == NULL)
		return 0;
	initStringInfo(&text);
	append(&text, cqrs_url_address(url));
	append(&text, exchange != NULL ? exchange : cqrs_exchange);
	append(&text, cqrs_id);
	claim = DatumGetUInt64(hash_any_extended((unsigned char *) text.data,
											 text.len, 0));
	pfree(text.data);
	return claim != 0 ? claim : 1;
}

void
cqrs_claim_set(int slot, CqrsClaim *claims, int count)
{
	Assert(count <= CQRS_MAX_CLAIMS);
	if (count > 0)
		qsort(claims, count, sizeof(CqrsClaim), compare);
	LWLockAcquire(cqrs_slot_lock, LW_EXCLUSIVE);
	if (count > 0)
		memcpy(by_slot[slot].claims, claims, count * sizeof(CqrsClaim));
	by_slot[slot].count = count;
	LWLockRelease(cqrs_slot_lock);
}

Oid
cqrs_claim_find_other(CqrsClaim claim)
{
	Oid			other = InvalidOid;

	if (claim == 0)
		return InvalidOid;
	LWLockAcquire(cqrs_slot_lock, LW_SHARED);
	for (int slot = 0; slot < cqrs_slot_count() && !OidIsValid(other); slot++)
	{
		const Claims *claims = &by_slot[slot];

		if (claims->count > 0 && cqrs_slot_database(slot) != MyDatabaseId &&
			bsearch(&claim, claims->claims, claims->count, sizeof(CqrsClaim),
					compare) != NULL)
			other = cqrs_slot_database(slot);
	}
	LWLockRelease(cqrs_slot_lock);
	return other;
}

/* cqrs.other_publisher(cqrs_id text, exchange text) RETURNS text */
Datum
cqrs_sql_other_publisher(PG_FUNCTION_ARGS)
{
	char	   *name = NULL;

	if (!PG_ARGISNULL(0))
	{
		char	   *exchange = PG_ARGISNULL(1) ? NULL :
		text_to_cstring(PG_GETARG_TEXT_PP(1));
		CqrsClaim	claim = cqrs_claim_make(text_to_cstring(PG_GETARG_TEXT_PP(0)),
											exchange);
		Oid			other = cqrs_claim_find_other(claim);

		if (OidIsValid(other))
			name = get_database_name(other);
	}
	if (name == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(name));
}

/* Parts are told apart by the zero at their ends. */
static void
append(StringInfo text, const char *part)
{
	appendBinaryStringInfo(text, part, strlen(part) + 1);
}

static int
compare(const void *a, const void *b)
{
	CqrsClaim	first = *(const CqrsClaim *) a;
	CqrsClaim	second = *(const CqrsClaim *) b;

	return first < second ? -1 : first > second;
}

/* Another database gets the slot: it claims nothing yet. */
static void
reset(void *element)
{
	((Claims *) element)->count = 0;
}
