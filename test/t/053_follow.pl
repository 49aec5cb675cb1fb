# The ledger of the whole way, from a master's rows to a replica's, under random
# faults, for about a minute (I25, I27).
use strict;
use warnings;

use FollowLedger;
use Test::More;

run_follow_ledger(duration_s => 40);
done_testing();
