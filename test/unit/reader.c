/*-------------------------------------------------------------------------
 *
 * reader.c
 *	  The publisher's reader, with window and holds, under random transactions
 *	  and without a server.
 *
 * usage: reader SECONDS [SEED]
 *
 * Plays transactions that draw batches of ids and commit, fail or stay open,
 * also while the reader reads under its snapshot; a broker that confirms,
 * refuses and disconnects; users who park messages; and publishers that end and
 * begin again at the saved watermark.  At any time
 *
 *	  - what the watermark covers has arrived, is parked, is another lane's or
 *		can never appear; the watermark does not go back (I4, I7)
 *	  - what is read is flushed before the reader returns (I5), and what is
 *		parked is committed synchronously (I10)
 *	  - a message that is in the window is not read again
 *	  - a turn looks at no more messages than it may
 *
 * In the end, when all transactions have ended and the broker works,
 *
 *	  - each committed message of the lane has arrived or is parked (I4), and
 *		no other one has arrived
 *	  - of each row, last arrivals are in the order of ids (I8)
 *	  - no hole is left
 *
 * I9 is an Assert of hold.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "nodes/pg_list.h"
#include "postmaster/interrupt.h"
#include "utils/snapmgr.h"

#include "base/guc.h"
#include "base/objects.h"
#include "outbox/parked.h"
#include "outbox/scan.h"
#include "publish/outgoing.h"
#include "publish/reader.h"
#include "server.h"

#define MASTERS		3
#define ROWS		2			/* of each master */
#define BATCHES		24
#define PER_BATCH	4			/* messages, at most */
#define TRANSACTIONS 20
#define WINDOW		2
#define FIRST_BATCH	1
#define SENT_MOST	512			/* on one connection */

typedef enum State
{
	UNUSED, RUNNING, COMMITTED, FAILED
} State;

typedef struct Transaction
{
	State		state;
	uint64		xid;
	int			ended;			/* when, in numbers of ends */
	bool		wants[MASTERS][ROWS];	/* locked, and no message yet */
} Transaction;

typedef struct Message
{
	int			transaction;	/* -1: there is no message with this id */
	int			master;
	int			row;
	bool		other_lane;
	bool		unsendable;
	bool		parked;
	bool		parking;		/* by the transaction of the reader */
	int			arrived;		/* number of its last arrival, 0: none */
} Message;

/* What is on its way to the broker, by the window. */
typedef struct Sent
{
	int64		ids[SENT_MOST]; /* in the order of their tags */
	bool		refused[SENT_MOST];
	bool		told[SENT_MOST];
	int			sent;
	int			answered;		/* by the broker, which may not have told */
} Sent;

struct CqrsOutboxScan
{
	int64		next;
	int64		to;
	bool		flushed;		/* all that was returned */
};

/* Settings */
int			cqrs_confirm_window = WINDOW;
int			cqrs_confirm_window_kb = 1024;
int			cqrs_reconnect_delay_ms;
int			cqrs_reconnect_delay_max_ms;
volatile sig_atomic_t InterruptPending;
volatile sig_atomic_t ShutdownRequestPending;

static Transaction transactions[TRANSACTIONS];
static int	ntransactions;
static int	nended;
static uint64 next_xid;
static int	next_batch;
static Message outbox[BATCHES][PER_BATCH];
static int	locks[MASTERS][ROWS];	/* the transaction that has it, or -1 */

static SnapshotData snapshot;
static int	snapshot_ended;		/* ends that the snapshot shows */
static bool reading;
static CqrsOutboxScan scan;
static int	look_turn;
static int	looked;				/* returned by scans in this turn */
static char returned[2][16];		/* of the message that the scan returned last */
static bool parked_in_turn;
static bool forced_sync;

static CqrsWorker worker;
static CqrsReader *reader;
static CqrsWindow *window;
static CqrsHolds *holds;
static int64 watermark;
static int64 saved;
static Sent way;
static bool probe_sent;
static bool full[MASTERS];		/* its queue refuses */
static bool registered[MASTERS];
static int	arrivals;

static const char *
name(int master)
{
	static const char *names[MASTERS] = {"a", "b", "c"};

	return names[master];
}

static int64
id_of(int batch, int place)
{
	return cqrs_batch_first_id(batch) + place;
}

static Message *
message_of(int64 id)
{
	int64		place = id - cqrs_batch_first_id(cqrs_batch_of(id));

	CHECK(id >= 0 && cqrs_batch_of(id) < BATCHES && place < PER_BATCH);
	return &outbox[cqrs_batch_of(id)][place];
}

static bool
is_visible(const Message *message)
{
	const Transaction *writer = &transactions[message->transaction];

	return message->transaction >= 0 && writer->state == COMMITTED &&
		writer->ended <= snapshot_ended;
}

/* ---- Transactions */

static void
begin(void)
{
	if (ntransactions == TRANSACTIONS)
		return;
	transactions[ntransactions].state = RUNNING;
	transactions[ntransactions++].xid = next_xid++;
	while ((TransactionId) next_xid < FirstNormalTransactionId)
		next_xid++;
}

static void
lock_row(int number)
{
	int			master = any(MASTERS);
	int			row = any(ROWS);

	if (locks[master][row] >= 0)
		return;
	locks[master][row] = number;
	transactions[number].wants[master][row] = true;
}

/* Draw a batch, and write a message of each row that has none. */
static void
draw(int number)
{
	Transaction *writer = &transactions[number];
	int			place = 0;

	if (next_batch == BATCHES)
		return;
	for (int master = 0; master < MASTERS; master++)
	{
		for (int row = 0; row < ROWS; row++)
		{
			Message    *message = &outbox[next_batch][place];

			if (!writer->wants[master][row] || place == PER_BATCH)
				continue;
			CHECK(id_of(next_batch, place) > watermark);
			writer->wants[master][row] = false;
			message->transaction = number;
			message->master = master;
			message->row = row;
			message->other_lane = worker.count > 1 && row == 1;
			message->unsendable = any(30) == 0;
			place++;
		}
	}
	next_batch++;
}

static void
end(int number)
{
	Transaction *ending = &transactions[number];

	for (int master = 0; master < MASTERS; master++)
	{
		for (int row = 0; row < ROWS; row++)
		{
			if (locks[master][row] == number)
				locks[master][row] = -1;
		}
	}
	ending->state = any(4) == 0 ? FAILED : COMMITTED;
	ending->ended = ++nended;
}

static void
go_on(void)
{
	int			number = any(TRANSACTIONS);

	if (any(4) == 0)
		begin();
	if (transactions[number].state != RUNNING)
		return;
	switch (any(8))
	{
		case 0:
			draw(number);
			break;
		case 1:
			/* Some stay open for long, as prepared ones do. */
			if (number % 5 != 0 || any(20) == 0)
				end(number);
			break;
		default:
			lock_row(number);
			break;
	}
}

/* As cqrs_park_held(). */
static void
park_by_user(void)
{
	int			master = any(MASTERS);

	snapshot_ended = nended;
	for (int batch = FIRST_BATCH; batch < next_batch; batch++)
	{
		for (int place = 0; place < PER_BATCH; place++)
		{
			Message    *message = &outbox[batch][place];

			if (id_of(batch, place) > saved && is_visible(message) &&
				message->master == master)
				message->parked = true;
		}
	}
}

/* ---- The publisher */

static void
start_publisher(void)
{
	window = cqrs_window_create();
	holds = cqrs_hold_create();
	reader = cqrs_reader_create(&worker, saved, holds, look_turn);
	memset(&way, 0, sizeof(way));
	probe_sent = false;
	watermark = saved;
}

/* The transaction of the reader ends. */
static void
end_reading(bool commit)
{
	for (int batch = FIRST_BATCH; batch < next_batch; batch++)
	{
		for (int place = 0; place < PER_BATCH; place++)
		{
			Message    *message = &outbox[batch][place];

			message->parked |= message->parking && commit;
			message->parking = false;
		}
	}
	reading = false;
}

/* Returns whether there is more to read. */
static bool
read_outbox(void)
{
	const CqrsOutgoing *probe = cqrs_hold_waiting_probe(holds);
	volatile bool more = true;

	snapshot_ended = nended;
	snapshot.xmin = (TransactionId) next_xid;
	for (int i = ntransactions - 1; i >= 0; i--)
	{
		if (transactions[i].state == RUNNING)
			snapshot.xmin = (TransactionId) transactions[i].xid;
	}
	reading = true;
	parked_in_turn = forced_sync = false;
	looked = 0;
	PG_TRY();
	{
		more = cqrs_reader_read(reader, window);
		/* Each part sees one more, and leaves it. */
		CHECK(looked <= 4 * (look_turn + 1));
		CHECK(scan.to == 0);
		CHECK(forced_sync || !parked_in_turn);
		if (holds->probe != NULL && holds->probe != probe)
			CHECK(!message_of(holds->probe->id)->parked);
		end_reading(true);
	}
	PG_CATCH();
	{
		/* The process ends, and the launcher starts another one. */
		end_reading(false);
		scan.to = 0;
		start_publisher();
	}
	PG_END_TRY();
	return more;
}

static void
send_messages(void)
{
	if (cqrs_hold_waiting_probe(holds) != NULL)
		probe_sent = true;
	while (cqrs_window_unsent(window) > 0 &&
		   cqrs_window_unconfirmed(window) < WINDOW && way.sent < SENT_MOST &&
		   any(8) != 0)
	{
		way.ids[way.sent++] = cqrs_window_next_unsent(window)->id;
		cqrs_window_sent(window);
	}
}

static void
arrive(int64 id)
{
	Message    *message = message_of(id);

	CHECK(!message->other_lane && !message->unsendable);
	CHECK(transactions[message->transaction].state == COMMITTED);
	message->arrived = ++arrivals;
}

static void
disconnect(void)
{
	/* What is under way may arrive, and nobody hears of it. */
	while (way.answered < way.sent && any(2) == 0)
	{
		int64		id = way.ids[way.answered++];

		if (!full[message_of(id)->master])
			arrive(id);
	}
	cqrs_window_rewind(window);
	cqrs_hold_probe_lost(holds);
	memset(&way, 0, sizeof(way));
	probe_sent = false;
}

/* As link_answer.c, for the probe. */
static void
answer_probe(void)
{
	int64		id;

	if (!probe_sent)
		return;
	probe_sent = false;
	id = holds->probe->id;
	if (full[message_of(id)->master])
		cqrs_hold_probe_refused(holds);
	else
	{
		arrive(id);
		cqrs_hold_probe_taken(holds);
	}
}

/* As there, for a message that the queue has refused. */
static void
nack(int tag)
{
	CqrsOutgoing *message = cqrs_window_by_tag(window, tag);
	int64		id = way.ids[tag - 1];
	const char *cqrs_id = name(message_of(id)->master);

	CHECK(message != NULL && message->id == id);
	if (!message->withdrawn)
	{
		cqrs_hold_add(holds, window, cqrs_id, id);
		cqrs_window_withdraw(window, cqrs_id, id);
	}
}

static void
answer_messages(void)
{
	while (way.answered < way.sent && any(3) != 0)
	{
		int			at = way.answered++;

		way.refused[at] = full[message_of(way.ids[at])->master];
		if (!way.refused[at])
			arrive(way.ids[at]);
	}
	for (int at = 0; at < way.answered; at++)
	{
		if (way.told[at] || any(2) == 0)
			continue;
		if (way.refused[at])
			nack(at + 1);
		(void) cqrs_window_confirm(window, at + 1, false);
		way.told[at] = true;
	}
	if (way.sent == SENT_MOST)
		disconnect();
}

static void
check_watermark(void)
{
	int64		before = watermark;

	watermark = cqrs_reader_watermark(reader, window);
	CHECK(watermark >= before);
	for (int batch = FIRST_BATCH; batch < next_batch; batch++)
	{
		for (int place = 0; place < PER_BATCH; place++)
		{
			const Message *message = &outbox[batch][place];

			if (id_of(batch, place) > watermark || message->transaction < 0 ||
				transactions[message->transaction].state == FAILED)
				continue;
			CHECK(transactions[message->transaction].state == COMMITTED);
			CHECK(message->arrived > 0 || message->parked ||
				  message->other_lane);
		}
	}
	if (any(8) == 0)
		saved = watermark;
}

static void
disturb(void)
{
	if (any(8) == 0)
		full[any(MASTERS)] ^= 1;
	if (any(20) == 0)
		disconnect();
	if (any(40) == 0)
		park_by_user();
	if (any(50) == 0)
		start_publisher();
}

/* Returns whether the reader has more to read. */
static bool
publish(void)
{
	bool		more;

	now_us += any(20000);
	more = read_outbox();
	send_messages();
	if (any(2) == 0)
		answer_probe();
	if (any(2) == 0)
		answer_messages();
	check_watermark();
	return more;
}

/* ---- A schedule */

static void
prepare(void)
{
	memset(transactions, 0, sizeof(transactions));
	memset(outbox, 0, sizeof(outbox));
	memset(locks, -1, sizeof(locks));
	memset(full, 0, sizeof(full));
	for (int batch = 0; batch < BATCHES; batch++)
	{
		for (int place = 0; place < PER_BATCH; place++)
			outbox[batch][place].transaction = -1;
	}
	for (int master = 0; master < MASTERS; master++)
		registered[master] = any(4) != 0;
	ntransactions = nended = arrivals = 0;
	next_batch = FIRST_BATCH;
	next_xid = ((uint64) (1 + any(2)) << 32) - 1 - any(TRANSACTIONS);
	saved = cqrs_batch_first_id(FIRST_BATCH) - 1 - any(2);
	worker.count = 1 + any(2);
	/* Probes that follow fast come to the end of their number. */
	cqrs_reconnect_delay_ms = any(2) == 0 ? 1 : 100;
	cqrs_reconnect_delay_max_ms = 10 * cqrs_reconnect_delay_ms;
	look_turn = any(2) == 0 ? 1 + any(4) : BATCHES * PER_BATCH;
	start_publisher();
}

static void
check_end(void)
{
	int			last[MASTERS][ROWS] = {0};

	for (int batch = FIRST_BATCH; batch < next_batch; batch++)
	{
		for (int place = 0; place < PER_BATCH; place++)
		{
			const Message *message = &outbox[batch][place];
			int		   *before = &last[message->master][message->row];

			if (message->transaction < 0 || message->other_lane ||
				transactions[message->transaction].state == FAILED)
				continue;
			CHECK(message->arrived > 0 || message->parked);
			if (message->arrived == 0)
				continue;
			CHECK(message->arrived > *before || message->parked);
			*before = Max(*before, message->arrived);
		}
	}
}

static void
run(void)
{
	int			steps = 0;
	bool		more;

	prepare();
	while (next_batch < BATCHES && ++steps < 1000)
	{
		for (int i = any(20) * any(10); i >= 0; i--)
			go_on();
		disturb();
		(void) publish();
	}
	/* Time for as many probes as a master gets before it is given up. */
	for (int i = any(4) == 0 ? 100 : 0; i > 0; i--)
		(void) publish();
	for (int i = 0; i < ntransactions; i++)
	{
		if (transactions[i].state == RUNNING)
			end(i);
	}
	memset(full, 0, sizeof(full));
	steps = 0;
	do
	{
		more = publish();
		CHECK(++steps < 10000);
	} while (more || cqrs_window_bytes(window) > 0 || holds->list != NIL ||
			 cqrs_reader_has_holes(reader));
	CHECK(cqrs_reader_min_unconfirmed(reader, window) == PG_INT64_MAX);
	check_end();
}

int
main(int argc, char **argv)
{
	return run_schedules(argc, argv, run,
						 "random schedules of 20 transactions");
}

/* ---- In the place of the outbox, and of the server. */

CqrsOutboxScan *
cqrs_scan_begin(int64 from, int64 to)
{
	CHECK(reading && scan.to == 0);
	scan.next = Max(from, cqrs_batch_first_id(FIRST_BATCH));
	scan.to = to;
	scan.flushed = true;
	CHECK(to != 0);
	return &scan;
}

bool
cqrs_scan_next(CqrsOutboxScan *this, CqrsMessage *message)
{
	memset(returned, 'x', sizeof(returned));
	if (any(3) == 0)
		go_on();
	for (; scan.next <= scan.to && cqrs_batch_of(scan.next) < BATCHES; scan.next++)
	{
		int64		id = scan.next;
		int			batch = cqrs_batch_of(id);
		const Message *found;

		if (id - cqrs_batch_first_id(batch) >= PER_BATCH)
		{
			scan.next = cqrs_batch_first_id(batch + 1) - 1;
			continue;
		}
		found = message_of(id);
		if (!is_visible(found))
			continue;
		strcpy(returned[0], name(found->master));
		sprintf(returned[1], "%d", found->row);
		memset(message, 0, sizeof(*message));
		message->id = id;
		message->cqrs_id = returned[0];
		message->instance_pk = returned[1];
		scan.flushed = false;
		scan.next++;
		looked++;
		return true;
	}
	return false;
}

void
cqrs_scan_flush_wal(CqrsOutboxScan *this)
{
	scan.flushed = true;
}

void
cqrs_scan_end(CqrsOutboxScan *this)
{
	CHECK(scan.flushed);
	scan.to = 0;
}

bool
cqrs_lane_has(const CqrsWorker *this, const CqrsMessage *message)
{
	return !message_of(message->id)->other_lane;
}

CqrsOutgoing *
cqrs_outgoing_build(const CqrsMessage *message, MemoryContext context,
					char **error)
{
	const Message *built = message_of(message->id);
	CqrsOutgoing *outgoing;

	CHECK(strcmp(message->cqrs_id, name(built->master)) == 0);
	CHECK(cqrs_window_find(window, message->id) == NULL);
	if (built->unsendable)
	{
		*error = "unsendable";
		return NULL;
	}
	outgoing = palloc0(sizeof(CqrsOutgoing));
	outgoing->id = message->id;
	outgoing->size = 100;
	outgoing->cqrs_id = unconstify(char *, name(built->master));
	return outgoing;
}

CqrsSkip
cqrs_parked_move(const CqrsMessage *message, CqrsParkReason reason,
				 const char *error)
{
	Message    *parked = message_of(message->id);

	CHECK(reason == CQRS_PARK_HELD ? !registered[parked->master] :
		  parked->unsendable);
	if (parked->parked || parked->parking)
		return CQRS_SKIP_BEFORE;
	if (any(20) == 0)
		return CQRS_SKIP_BUSY;
	if (any(20) == 0)
		elog(ERROR, "no space left");
	parked->parking = true;
	parked_in_turn = true;
	return CQRS_SKIP_ADDED;
}

int
cqrs_skipped_above(int64 id, int64 **ids)
{
	int			nids = 0;

	*ids = palloc(sizeof(int64) * BATCHES * PER_BATCH);
	for (int batch = FIRST_BATCH; batch < next_batch; batch++)
	{
		for (int place = 0; place < PER_BATCH; place++)
		{
			const Message *message = &outbox[batch][place];

			if ((message->parked || message->parking) &&
				id_of(batch, place) > id)
				(*ids)[nids++] = id_of(batch, place);
		}
	}
	return nids;
}

bool
cqrs_skipped_has(const int64 *ids, int nids, int64 id)
{
	for (int i = 0; i < nids; i++)
	{
		if (ids[i] == id)
			return true;
	}
	return false;
}

bool
cqrs_objects_has_master(const char *cqrs_id)
{
	return registered[cqrs_id[0] - 'a'];
}

void
ForceSyncCommit(void)
{
	forced_sync = true;
}

FullTransactionId
ReadNextFullTransactionId(void)
{
	if (any(3) == 0)
		go_on();
	return FullTransactionIdFromU64(next_xid);
}

Snapshot
GetActiveSnapshot(void)
{
	return &snapshot;
}

void
ProcessInterrupts(void)
{
}

void
cqrs_message_expires(char *buffer, int ttl_s)
{
	memset(buffer, ' ', CQRS_EXPIRES_LEN);
}

MemoryContext
AllocSetContextCreateInternal(MemoryContext parent, const char *context_name,
							  Size min, Size init, Size max)
{
	return NULL;
}

void
MemoryContextReset(MemoryContext context)
{
}
