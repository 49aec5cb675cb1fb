/*-------------------------------------------------------------------------
 *
 * slot.c
 *	  Slots: numbers of the databases that have the extension, and the shared
 *	  memory indexed by them.
 *
 * A database takes a slot when the extension is first used there and gives it
 * back when the database is gone (launcher.c).  Each module that keeps data
 * about databases in shared memory has an array of its own, indexed by the
 * slot, and defines how an element is initialized.
 *
 * Nothing here survives a restart and nothing has to, but for the counters of
 * workers (stats_file.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/shmem.h"

#include "base/compat.h"
#include "base/guc.h"
#include "base/slot.h"

#define MAX_ARRAYS	8

typedef struct Slots
{
	int			count;
	Oid			databases[FLEXIBLE_ARRAY_MEMBER];	/* InvalidOid: free */
} Slots;

LWLock	   *cqrs_slot_lock;

static Slots *slots;
static const CqrsSharedArray *arrays[MAX_ARRAYS];
static int	narrays = 0;

static shmem_request_hook_type previous_shmem_request_hook;
static shmem_startup_hook_type previous_shmem_startup_hook;

static void request_memory(void);
static void startup(void);
static void startup_array(const CqrsSharedArray *array);
static Size slots_size(void);
static int	array_length(const CqrsSharedArray *array);
static void *array_element(const CqrsSharedArray *array, int i);
static int	find_slot(Oid dboid);

void
cqrs_slot_add_array(const CqrsSharedArray *array)
{
	if (narrays == MAX_ARRAYS)
		elog(ERROR, "too many arrays in shared memory");
	arrays[narrays++] = array;
}

void
cqrs_slot_init(void)
{
	previous_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = request_memory;
	previous_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = startup;
}

int
cqrs_slot_count(void)
{
	return slots->count;
}

Oid
cqrs_slot_database(int slot)
{
	return slots->databases[slot];
}

int
cqrs_slot_find(Oid dboid)
{
	int			slot;

	LWLockAcquire(cqrs_slot_lock, LW_SHARED);
	slot = find_slot(dboid);
	LWLockRelease(cqrs_slot_lock);
	return slot;
}

int
cqrs_slot_mine(void)
{
	static int	mine = -1;

	/* A slot is given back only when its database is gone. */
	if (mine >= 0)
		return mine;

	LWLockAcquire(cqrs_slot_lock, LW_EXCLUSIVE);
	mine = cqrs_slot_take(MyDatabaseId);
	LWLockRelease(cqrs_slot_lock);
	if (mine < 0)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("too many databases use the extension \"cqrs\""),
				 errdetail("The limit \"cqrs.max_databases\" is %d.", slots->count),
				 errhint("Increase \"cqrs.max_databases\" and restart the server.")));
	return mine;
}

int
cqrs_slot_take(Oid dboid)
{
	int			slot = find_slot(dboid);

	if (slot >= 0)
		return slot;
	slot = find_slot(InvalidOid);
	if (slot < 0)
		return -1;
	for (int i = 0; i < narrays; i++)
	{
		if (arrays[i]->by_slot && arrays[i]->reset != NULL)
			arrays[i]->reset(array_element(arrays[i], slot));
	}
	slots->databases[slot] = dboid;
	return slot;
}

void
cqrs_slot_free(int slot)
{
	slots->databases[slot] = InvalidOid;
}

/* shmem_request_hook */
static void
request_memory(void)
{
	if (previous_shmem_request_hook)
		previous_shmem_request_hook();
	RequestAddinShmemSpace(slots_size());
	for (int i = 0; i < narrays; i++)
		RequestAddinShmemSpace(mul_size(arrays[i]->size,
										array_length(arrays[i])));
	RequestNamedLWLockTranche("cqrs", 1);
}

/* shmem_startup_hook: create the shared memory, or attach to it. */
static void
startup(void)
{
	bool		found;

	if (previous_shmem_startup_hook)
		previous_shmem_startup_hook();

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	cqrs_slot_lock = &(GetNamedLWLockTranche("cqrs"))->lock;
	slots = ShmemInitStruct("cqrs slots", slots_size(), &found);
	if (!found)
	{
		memset(slots, 0, slots_size());
		slots->count = cqrs_max_databases;
	}
	for (int i = 0; i < narrays; i++)
		startup_array(arrays[i]);
	LWLockRelease(AddinShmemInitLock);
}

/* The same for one array. */
static void
startup_array(const CqrsSharedArray *array)
{
	int			length = array_length(array);
	bool		found;

	*array->elements = ShmemInitStruct(array->name,
									   mul_size(array->size, length), &found);
	if (found)
		return;
	memset(*array->elements, 0, array->size * length);
	for (int i = 0; array->init != NULL && i < length; i++)
		array->init(array_element(array, i));
}

static Size
slots_size(void)
{
	return add_size(offsetof(Slots, databases),
					mul_size(cqrs_max_databases, sizeof(Oid)));
}

/* The number of elements that an array has. */
static int
array_length(const CqrsSharedArray *array)
{
	return array->by_slot ? cqrs_max_databases : 1;
}

static void *
array_element(const CqrsSharedArray *array, int i)
{
	return (char *) *array->elements + array->size * i;
}

/* The slot of a database, or -1; the caller holds the lock. */
static int
find_slot(Oid dboid)
{
	for (int i = 0; i < slots->count; i++)
	{
		if (slots->databases[i] == dboid)
			return i;
	}
	return -1;
}
