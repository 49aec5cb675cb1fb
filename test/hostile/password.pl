
# A broker knows the password, and quotes it: what is shown of its words has no
# password, and is the same otherwise.
use strict;
use warnings;

use FakeBroker qw(:frames);
use PostgreSQL::Test::Utils;
use Test::More;
use TransportTest;

# User and password as in a URL, the broker's words, and what is shown.
my %cases = (
	'long'          => [ 'u:s3cret-word', 'u/s3cret-word!', 'u/***!' ],
	'within a word' => [ 'u:s3cret',      'xs3crety',       'x***y' ],
	'twice'         => [ 'u:s3cret',      's3crets3cret',   '******' ],
	'a part of it'  => [ 'u:s3cret',      's3cre',          's3cre' ],
	'at the end'    =>
	  [ 'u:s3cret-word', 'x' x 240 . 's3cret-word', 'x' x 240 . '***' ],
	'percent-encoded' => [ 'u:a%2Fb%40c', 'a/b@c', '***' ],
	'not ASCII'       =>
	  [ 'u:w%C3%B6rd', "w\xC3\xB6rd \xC3w\xC3\xB6rd", '*** ?***' ],
	'control characters' => [ 'u:%01x%7Fy', "\1x\x7Fy \1x", '*** ?x' ],
	'short'              => [
		'u:abc',
		'abc "abc" abcd xabc abc_ a/abc',
		'*** "***" abcd xabc abc_ a/***' ],
	'of one character' => [ 'u:e', 'e refused',        '*** refused' ],
	'empty'            => [ 'u:',  'refused',          'refused' ],
	'none'             => [ 'u',   'guest is refused', 'guest is refused' ],
	'the name of the user' =>
	  [ 'guest:guest', 'guest is refused', 'guest is refused' ]);

my $broker = FakeBroker->new(
	(   map {
			my $words = $cases{$_}[1];
			(   $_ => {
					at     => 'connection.start-ok',
					answer => sub {
						$_[0]
						  ->put(method(0, 10, 50, close_args(403, $words)));
					}
				})
		} keys %cases),
	id => {
		at     => 'basic.consume',
		answer => sub {
			$_[0]->put(
				method(1, 60, 21, shortstr('cqrs-1'))
				  . method(
					1,
					60,
					60,
					shortstr('cqrs-1')
					  . pack('Q>C', 1, 0)
					  . shortstr('')
					  . shortstr('key'))
				  . content(
					1, pack('n', 1 << 7) . shortstr('s3cret-7'), 'body'));
		}
	});
my $node = start_node($broker->url);
my ($address) = $broker->url =~ /\@(.*)/;

foreach my $name (sort keys %cases)
{
	my ($login, undef, $shown) = @{ $cases{$name} };

	$broker->misbehave($name);
	my ($line) = run(consumer(0, url => "amqp://$login\@$address"));
	is( $line,
		"transport: could not log in: broker closed the connection: 403 $shown",
		$name);
}

# An id is no word of the broker.
$broker->misbehave('id');
my @lines = run(
	consumer(0, url => "amqp://u:s3cret\@$address"),
	q{subscribe | 0 | 'shop' | 1},
	next_of(0, 2),
	'close | 0 | false');
is($lines[-2], 'delivery 1 0 key s3cret-7 4 body', 'an id stays as it is');
$node->stop;

done_testing();
