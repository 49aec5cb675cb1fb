# The ledger: random transactions under random faults, for about a minute.
use strict;
use warnings;

use Ledger;
use Test::More;

run_ledger(duration_s => 40);
done_testing();
