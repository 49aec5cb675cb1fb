/*-------------------------------------------------------------------------
 *
 * order.c
 *	  Window and holds of the publisher under random schedules, without a
 *	  server: what the heads of window.c and hold.c promise of order.
 *
 * usage: order SECONDS [SEED]
 *
 * Plays the outbox, the reader, the link and a broker whose routes break, whose
 * queues refuse, and whose connections end, at random.  Then all works again,
 * and of each row
 *
 *	  - each message has arrived
 *	  - last arrivals are in the order of the outbox (I8)
 *
 * and at any time
 *
 *	  - what the watermark covers has arrived (I7)
 *	  - a probe begins when nothing of its master is in the window (I9)
 *	  - the window has no message twice
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/pg_prng.h"
#include "nodes/pg_list.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "base/guc.h"
#include "outbox/message.h"
#include "publish/hold.h"
#include "publish/window.h"
#include "server.h"

#define MASTERS		4
#define ROWS		3			/* of each master */
#define MESSAGES	120
#define WINDOW		6

/* Settings of window.c and hold.c. */
int			cqrs_confirm_window = WINDOW;
int			cqrs_confirm_window_kb = 1024;
int			cqrs_reconnect_delay_ms = 100;
int			cqrs_reconnect_delay_max_ms = 1000;

void
cqrs_message_expires(char *buffer, int ttl_s)
{
	memset(buffer, ' ', CQRS_EXPIRES_LEN);
}

typedef struct Message
{
	int			master;
	int			row;
	bool		visible;
	bool		read;
	int			arrived;		/* number of its last arrival, 0: none */
} Message;

/* What is on its way to the broker, by either way. */
typedef struct Channel
{
	int			ids[MESSAGES * 2];	/* in the order of their tags */
	int			sent;
	int			answered;		/* by the broker, which may not have told */
	bool		confirmed[MESSAGES * 2];
	bool		refused[MESSAGES * 2];
} Channel;

static Message outbox[MESSAGES + 1];
static int	nmessages;
static int	frontier;
static int	arrivals;
static bool broken[MASTERS];	/* its route ends the channel */
static bool full[MASTERS];		/* its queue refuses */
static bool proven[MASTERS];	/* by this connection */
static bool connected;
static Channel main_way;
static Channel probe_way;
static CqrsWindow *window;
static CqrsHolds *holds;

static const char *
name(int master)
{
	static const char *names[MASTERS] = {"a", "b", "c", "d"};

	return names[master];
}

static CqrsOutgoing *
build(int id)
{
	CqrsOutgoing *message = palloc0(sizeof(CqrsOutgoing));

	message->id = id;
	message->size = 100;
	message->cqrs_id = (char *) name(outbox[id].master);
	return message;
}

/* A row has one message under way to be visible at most: its lock. */
static void
write_message(void)
{
	int			id = nmessages + 1;
	int			master = any(MASTERS);
	int			row = any(ROWS);

	if (nmessages == MESSAGES)
		return;
	for (int i = 1; i <= nmessages; i++)
	{
		if (!outbox[i].visible && outbox[i].master == master &&
			outbox[i].row == row)
			return;
	}
	nmessages++;
	outbox[id].master = master;
	outbox[id].row = row;
	outbox[id].visible = any(4) != 0;
}

static void
commit_late(void)
{
	int			id = 1 + any(Max(nmessages, 1));

	outbox[id].visible = id <= nmessages;
}

static void
push(int id)
{
	if (!cqrs_hold_keep(holds, window, name(outbox[id].master), id))
		cqrs_window_push(window, build(id));
}

/* As reader.c: what came late, what is held, what is new. */
static void
read_outbox(void)
{
	CqrsHold   *probe;
	ListCell   *lc;
	List	   *list;

	for (int i = 1; i <= frontier; i++)
	{
		if (outbox[i].visible && !outbox[i].read)
		{
			if (!cqrs_window_has_room(window))
				return;
			outbox[i].read = true;
			push(i);
		}
	}
	probe = connected ? cqrs_hold_next_probe(holds, window) : NULL;
	if (probe != NULL)
	{
		int			i = probe->next_id;

		while (i <= frontier && (!outbox[i].read ||
								 name(outbox[i].master)[0] != probe->cqrs_id[0]))
			i++;
		for (int j = 1; j <= frontier; j++)
			CHECK(name(outbox[j].master)[0] != probe->cqrs_id[0] ||
				  cqrs_window_find(window, j) == NULL);
		if (i <= frontier)
			cqrs_hold_set_probe(holds, probe, build(i));
		else
			cqrs_hold_remove(holds, probe);
	}
	list = list_copy(holds->list);
	foreach(lc, list)
	{
		CqrsHold   *hold = lfirst(lc);
		int			i = hold->next_id;

		if (hold->state != CQRS_HOLD_CATCHING_UP)
			continue;
		for (; i <= frontier; i++)
		{
			if (!outbox[i].read ||
				name(outbox[i].master)[0] != hold->cqrs_id[0])
				continue;
			if (!cqrs_window_has_room(window))
				break;
			/* A second copy could be taken for the first one. */
			CHECK(cqrs_window_find(window, i) == NULL);
			hold->next_id = i + 1;
			push(i);
		}
		if (i > frontier)
			cqrs_hold_remove(holds, hold);
	}
	list_free(list);
	while (frontier < nmessages && cqrs_window_has_room(window))
	{
		frontier++;
		if (outbox[frontier].visible)
		{
			outbox[frontier].read = true;
			push(frontier);
		}
	}
}

/* As link_send.c. */
static void
send_messages(void)
{
	if (holds->probe != NULL && probe_way.sent == probe_way.answered)
		probe_way.ids[probe_way.sent++] = holds->probe->id;
	while (cqrs_window_unsent(window) > 0 &&
		   cqrs_window_unconfirmed(window) < WINDOW &&
		   main_way.sent < lengthof(main_way.ids) && any(8) != 0)
	{
		CqrsOutgoing *message = cqrs_window_next_unsent(window);
		int			master = outbox[message->id].master;

		if (proven[master])
		{
			main_way.ids[main_way.sent++] = message->id;
			cqrs_window_sent(window);
		}
		else
		{
			int64		id = message->id;

			cqrs_hold_add_unproven(holds, window, name(master), id);
			cqrs_window_withdraw(window, name(master), id);
		}
	}
}

static void
disconnect(void)
{
	/* What is under way may arrive, and nobody hears of it. */
	while (main_way.answered < main_way.sent && any(2) == 0)
	{
		int			id = main_way.ids[main_way.answered++];

		if (!broken[outbox[id].master] && !full[outbox[id].master])
			outbox[id].arrived = ++arrivals;
	}
	if (probe_way.answered < probe_way.sent && any(2) == 0)
		outbox[probe_way.ids[probe_way.answered]].arrived = ++arrivals;
	cqrs_window_rewind(window);
	cqrs_hold_probe_lost(holds);
	memset(proven, 0, sizeof(proven));
	memset(&main_way, 0, sizeof(main_way));
	memset(&probe_way, 0, sizeof(probe_way));
	connected = false;
}

/* As link_answer.c, for the probe. */
static void
answer_probe(void)
{
	int			master;
	int			id;

	if (probe_way.answered == probe_way.sent)
		return;
	id = probe_way.ids[probe_way.answered++];
	master = outbox[id].master;
	CHECK(holds->probe != NULL && holds->probe->id == id);
	if (broken[master] || full[master])
		cqrs_hold_probe_refused(holds);
	else
	{
		outbox[id].arrived = ++arrivals;
		proven[master] = true;
		cqrs_hold_probe_taken(holds);
	}
	if (probe_way.sent == lengthof(probe_way.ids))
		disconnect();
}

/* As there, for a message that the queue has refused. */
static void
nack(int tag)
{
	CqrsOutgoing *message = cqrs_window_by_tag(window, tag);
	const char *cqrs_id = name(outbox[main_way.ids[tag - 1]].master);

	CHECK(message != NULL && message->id == main_way.ids[tag - 1]);
	if (!message->withdrawn)
	{
		cqrs_hold_add(holds, window, cqrs_id, message->id);
		cqrs_window_withdraw(window, cqrs_id, main_way.ids[tag - 1]);
	}
}

/* Messages arrive in the order of sending; confirms come in any order. */
static void
answer_main(void)
{
	bool		multiple = any(4) == 0;

	while (main_way.answered < main_way.sent && any(3) != 0)
	{
		int			at = main_way.answered++;
		Message    *message = &outbox[main_way.ids[at]];

		if (broken[message->master])
		{
			disconnect();
			return;
		}
		main_way.refused[at] = full[message->master];
		if (!main_way.refused[at])
			message->arrived = ++arrivals;
	}
	for (int at = 0; at < main_way.answered; at++)
	{
		if (main_way.confirmed[at] || (!multiple && any(2) == 0))
			continue;
		if (main_way.refused[at])
			nack(at + 1);
		(void) cqrs_window_confirm(window, at + 1,
								   multiple && !main_way.refused[at] &&
								   (at == 0 || main_way.confirmed[at - 1]));
		main_way.confirmed[at] = true;
	}
	if (main_way.sent == lengthof(main_way.ids))
		disconnect();
}

/* All before the lowest id that is read and not confirmed has arrived. */
static void
check_watermark(void)
{
	int64		lowest = Min(cqrs_window_min_id(window),
							 cqrs_hold_min_id(holds));

	for (int i = 1; i <= frontier && i < lowest; i++)
		CHECK(!outbox[i].read || outbox[i].arrived > 0);
}

static void
step(bool calm)
{
	now_us += any(50000);
	if (!calm)
	{
		if (any(30) == 0)
			broken[any(MASTERS)] ^= 1;
		if (any(30) == 0)
			full[any(MASTERS)] ^= 1;
		if (any(60) == 0)
			disconnect();
	}
	if (any(3) == 0)
		write_message();
	if (calm || any(5) == 0)
		commit_late();
	connected = true;
	read_outbox();
	send_messages();
	if (any(2) == 0)
		answer_probe();
	if (any(2) == 0)
		answer_main();
	check_watermark();
}

static void
check_order(void)
{
	int			last[MASTERS][ROWS] = {0};

	for (int i = 1; i <= nmessages; i++)
	{
		int		   *before = &last[outbox[i].master][outbox[i].row];

		CHECK(outbox[i].arrived > *before);
		*before = outbox[i].arrived;
	}
}

static bool
is_settled(void)
{
	for (int i = 1; i <= nmessages; i++)
	{
		if (!outbox[i].read)
			return false;
	}
	return cqrs_window_bytes(window) == 0 && holds->list == NIL;
}

static void
run(void)
{
	int			steps = 0;

	window = cqrs_window_create();
	holds = cqrs_hold_create();
	connected = false;
	memset(outbox, 0, sizeof(outbox));
	memset(broken, 0, sizeof(broken));
	memset(full, 0, sizeof(full));
	nmessages = frontier = arrivals = 0;
	disconnect();
	while (nmessages < MESSAGES)
		step(false);
	memset(broken, 0, sizeof(broken));
	memset(full, 0, sizeof(full));
	for (int i = 1; i <= nmessages; i++)
		outbox[i].visible = true;
	while (!is_settled())
	{
		step(true);
		CHECK(++steps < 100000);
	}
	check_order();
}

int
main(int argc, char **argv)
{
	return run_schedules(argc, argv, run,
						 "random schedules of window and holds");
}
