/*-------------------------------------------------------------------------
 *
 * cases.c
 *	  Window and holds of the publisher in single cases (I8, I9), without a
 *	  server, which random schedules (order.c) meet too rarely or do not see.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/guc.h"
#include "outbox/message.h"
#include "publish/hold.h"
#include "publish/window.h"
#include "server.h"

/* Settings of window.c and hold.c. */
int			cqrs_confirm_window = 6;
int			cqrs_confirm_window_kb = 1024;
int			cqrs_reconnect_delay_ms = 100;
int			cqrs_reconnect_delay_max_ms = 1000;

void
cqrs_message_expires(char *buffer, int ttl_s)
{
	memset(buffer, ' ', CQRS_EXPIRES_LEN);
}

static CqrsOutgoing *
build(const char *cqrs_id, int64 id)
{
	CqrsOutgoing *message = palloc0(sizeof(CqrsOutgoing));

	message->id = id;
	message->size = 100;
	message->cqrs_id = unconstify(char *, cqrs_id);
	return message;
}

/* A window with messages of a master that have been sent. */
static CqrsWindow *
sent_window(int count)
{
	CqrsWindow *window = cqrs_window_create();

	for (int id = 1; id <= count; id++)
	{
		cqrs_window_push(window, build("a", id));
		cqrs_window_sent(window);
	}
	return window;
}

/* A confirm does not count for the message that is sent again. */
static void
rewind_forgets_confirms(void)
{
	CqrsWindow *window = sent_window(2);

	CHECK(cqrs_window_confirm(window, 2, false) == 1);
	cqrs_window_rewind(window);
	CHECK(cqrs_window_next_unsent(window)->id == 1);
	cqrs_window_sent(window);
	CHECK(cqrs_window_next_unsent(window)->id == 2);
	cqrs_window_sent(window);
	CHECK(cqrs_window_confirm(window, 1, false) == 1);
	CHECK(cqrs_window_min_id(window) == 2);
	CHECK(cqrs_window_by_tag(window, 2) != NULL);
	CHECK(cqrs_window_confirm(window, 2, false) == 1);
	CHECK(cqrs_window_min_id(window) == PG_INT64_MAX);
}

/* What was withdrawn after it was sent is not sent again. */
static void
rewind_drops_withdrawn(void)
{
	CqrsWindow *window = sent_window(3);

	cqrs_window_withdraw(window, "a", 2);
	CHECK(cqrs_window_unconfirmed(window) == 3);
	cqrs_window_rewind(window);
	CHECK(cqrs_window_unsent(window) == 1);
	CHECK(cqrs_window_next_unsent(window)->id == 1);
	CHECK(cqrs_window_bytes(window) == 100);
}

/* The first message that is held stays out of the window. */
static void
hold_keeps_first(void)
{
	CqrsWindow *window = cqrs_window_create();
	CqrsHolds  *holds = cqrs_hold_create();

	CHECK(cqrs_hold_add(holds, window, "a", 5));
	CHECK(!cqrs_hold_keep(holds, window, "a", 4));
	CHECK(cqrs_hold_keep(holds, window, "a", 5));
	CHECK(cqrs_hold_keep(holds, window, "a", 6));
	CHECK(!cqrs_hold_keep(holds, window, "b", 5));
}

/*
 * Late messages are in the window while the probe of their master is under
 * way.  One of them is refused, then the probe is taken: what follows waits
 * until the other one is answered.
 */
static void
late_refusal_during_probe(void)
{
	CqrsWindow *window = cqrs_window_create();
	CqrsHolds  *holds = cqrs_hold_create();
	CqrsHold   *hold;

	cqrs_hold_add_unproven(holds, window, "a", 10);
	hold = cqrs_hold_next_probe(holds, window);
	CHECK(hold != NULL);
	cqrs_hold_set_probe(holds, hold, build("a", 10));
	for (int id = 4; id <= 5; id++)
	{
		CHECK(!cqrs_hold_keep(holds, window, "a", id));
		cqrs_window_push(window, build("a", id));
		cqrs_window_sent(window);
	}
	CHECK(!cqrs_hold_add(holds, window, "a", 4));
	cqrs_window_withdraw(window, "a", 4);
	CHECK(cqrs_window_confirm(window, 1, false) == 1);
	cqrs_hold_probe_taken(holds);
	CHECK(!cqrs_hold_are_due(holds, window));
	CHECK(cqrs_window_confirm(window, 2, false) == 1);
	CHECK(cqrs_hold_next_probe(holds, window) == hold);
	CHECK(hold->next_id == 4);
}

int
main(void)
{
	static void (*const cases[]) (void) = {
		rewind_forgets_confirms,
		rewind_drops_withdrawn,
		hold_keeps_first,
		late_refusal_during_probe
	};

	for (int i = 0; i < lengthof(cases); i++)
		cases[i] ();
	printf("%d cases\n", (int) lengthof(cases));
	return 0;
}
