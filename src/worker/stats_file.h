/*-------------------------------------------------------------------------
 *
 * stats_file.h
 *	  Counters of workers, kept over a clean restart of the server.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_STATS_FILE_H
#define CQRS_STATS_FILE_H

/*
 * Have the counters kept; called once, while the library is preloaded, after
 * cqrs_slot_init(), because slots have to be there first.
 */
extern void cqrs_stats_file_init(void);

#endif							/* CQRS_STATS_FILE_H */
