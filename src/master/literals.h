/*-------------------------------------------------------------------------
 *
 * literals.h
 *	  Expressions that are analyzed without running the code of users.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_LITERALS_H
#define CQRS_LITERALS_H

#include "postgres.h"

#include "parser/parse_node.h"

/*
 * Take the string literals out of a raw expression, which is changed in place,
 * so that transformExpr() reads none of them.  Sets hooks of the parse state.
 * The result is what cqrs_literals_put_back() needs.
 */
extern List *cqrs_literals_take(ParseState *pstate, Node *raw);

/*
 * The analyzed expression, with its literals again.  Those whose type may have
 * a user's code read them are casts of their text.
 */
extern Node *cqrs_literals_put_back(Node *expression, List *literals);

#endif							/* CQRS_LITERALS_H */
