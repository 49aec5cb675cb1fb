# The ledger: random transactions under random faults, for about a minute (I7, I8).
use strict;
use warnings;

use Ledger;
use Test::More;

run_ledger(duration_s => 40);
done_testing();
