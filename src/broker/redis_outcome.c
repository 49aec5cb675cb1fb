/*-------------------------------------------------------------------------
 *
 * redis_outcome.c
 *	  What the replies to a batch say about its messages.
 *
 * The server is not trusted: a reply must be one that the request can have
 * (redis_request.c), and must have the outcome of each message, or the reason
 * why there is none.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "broker/failure.h"
#include "broker/redis_batch.h"

#define TAIL_DIGITS		8
#define ABORT_PREFIX	"EXECABORT Transaction discarded because of: "

static bool answer_script(CqrsBatch *batch, const CqrsReply *reply);
static bool answer_direct(CqrsBatch *batch, const CqrsReply *reply);
static bool answer_transaction(CqrsBatch *batch, const CqrsReply *reply);
static bool take_error(CqrsBatch *batch, const CqrsReply *reply);
static bool take_end(CqrsBatch *batch, const CqrsReply *end);
static bool take_tail(CqrsBatch *batch, const CqrsReply *tail);

bool
cqrs_redis_batch_answer(CqrsBatch *batch, const CqrsReply *reply)
{
	bool		ok = batch->direct ? answer_direct(batch, reply) :
	answer_script(batch, reply);

	batch->replied++;
	return ok;
}

bool
cqrs_redis_batch_is_answered(const CqrsBatch *batch)
{
	return batch->replied >= (batch->direct ? CQRS_BATCH_DIRECT_COMMANDS : 1);
}

/*
 * The script's reply: outcomes of the first messages, and what follows them,
 * or an error.  Returns false if it is none that the script gives.
 */
static bool
answer_script(CqrsBatch *batch, const CqrsReply *reply)
{
	if (reply->type == CQRS_REPLY_ERROR)
		return take_error(batch, reply);
	if (reply->type != CQRS_REPLY_ARRAY ||
		reply->nelements > batch->count + 1)
		return false;
	for (int i = 0; i < reply->nelements; i++)
	{
		const CqrsReply *element = &reply->elements[i];

		if (i == batch->count)
			return batch->count > 0 && take_end(batch, element);
		if (element->type == CQRS_REPLY_ERROR)
		{
			batch->stopped = true;
			return i == reply->nelements - 1 && take_error(batch, element);
		}
		if (element->type == CQRS_REPLY_TEXT && batch->limited)
		{
			batch->outcomes[i] = CQRS_BATCH_OUTCOME_REFUSED;
			cqrs_failure_quote(batch->full, sizeof(batch->full),
							   element->text, element->length);
		}
		else if (element->type == CQRS_REPLY_INTEGER && element->integer >= 0)
			batch->outcomes[i] = element->integer == 0 ?
				CQRS_BATCH_OUTCOME_UNROUTABLE : CQRS_BATCH_OUTCOME_TAKEN;
		else
			return false;
		batch->done++;
	}
	return batch->done == batch->count;
}

/* The first error counts: those behind it only follow from it. */
static bool
answer_direct(CqrsBatch *batch, const CqrsReply *reply)
{
	if (reply->type == CQRS_REPLY_ERROR)
		return batch->error[0] != '\0' || take_error(batch, reply);
	if (batch->replied < CQRS_BATCH_DIRECT_COMMANDS - 1)
		return reply->type == CQRS_REPLY_TEXT;
	return batch->error[0] == '\0' && answer_transaction(batch, reply);
}

/* The length of the queue, and the result of the script. */
static bool
answer_transaction(CqrsBatch *batch, const CqrsReply *reply)
{
	if (reply->type != CQRS_REPLY_ARRAY || reply->nelements != 2)
		return false;
	for (int i = 1; i >= 0; i--)
	{
		const CqrsReply *element = &reply->elements[i];

		if (element->type == CQRS_REPLY_ERROR)
			return take_error(batch, element);
		if (element->type != CQRS_REPLY_INTEGER ||
			element->integer < (i == 0 ? batch->count : 1))
			return false;
	}
	for (int i = 0; i < batch->count; i++)
		batch->outcomes[i] = CQRS_BATCH_OUTCOME_TAKEN;
	batch->done = batch->count;
	return true;
}

/* Returns false if the error has no text. */
static bool
take_error(CqrsBatch *batch, const CqrsReply *reply)
{
	const char *text = reply->text;
	Size		length = reply->length;
	Size		prefix = strlen(ABORT_PREFIX);

	if (length > prefix && memcmp(text, ABORT_PREFIX, prefix) == 0)
	{
		text += prefix;
		length -= prefix;
	}
	cqrs_failure_quote(batch->error, sizeof(batch->error), text, length);
	return batch->error[0] != '\0';
}

/*
 * Take what follows the outcomes.  Returns false if that is not a valid end of
 * a reply.
 */
static bool
take_end(CqrsBatch *batch, const CqrsReply *end)
{
	const CqrsReply *bindings;
	const CqrsReply *queue;

	if (end->type == CQRS_REPLY_TEXT)
		return take_tail(batch, end);
	if (end->type != CQRS_REPLY_ARRAY || end->nelements != 3 ||
		!take_tail(batch, &end->elements[0]))
		return false;
	bindings = &end->elements[1];
	queue = &end->elements[2];
	if (bindings->type != CQRS_REPLY_TEXT || queue->type != CQRS_REPLY_TEXT ||
		bindings->length >= sizeof(batch->bindings))
		return false;
	/* Such a name is not remembered. */
	if (queue->length >= sizeof(batch->queue) ||
		strlen(queue->text) != queue->length)
		return true;
	strlcpy(batch->bindings, bindings->text, sizeof(batch->bindings));
	strlcpy(batch->queue, queue->text, sizeof(batch->queue));
	return true;
}

/* Returns false if the tail is not valid. */
static bool
take_tail(CqrsBatch *batch, const CqrsReply *tail)
{
	if (tail->type != CQRS_REPLY_TEXT || tail->length != strlen(CQRS_BATCH_NO_TAIL) ||
		tail->text[0] != '-' ||
		strspn(tail->text + 1, "0123456789abcdef") != TAIL_DIGITS ||
		strcmp(tail->text + 1 + TAIL_DIGITS, &CQRS_BATCH_NO_TAIL[1 + TAIL_DIGITS]) != 0)
		return false;
	strlcpy(batch->right_tail, tail->text, sizeof(batch->right_tail));
	return true;
}
