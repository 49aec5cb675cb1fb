
=pod

=head1 NAME

RawPublish - publishes messages to RabbitMQ exactly as given

=head1 SYNOPSIS

  use RawPublish;

  publish_raw($broker,
	{   exchange    => 'cqrs',
		routing_key => 'author',
		properties  => '{content_type, <<"text/plain">>}, {delivery_mode, 2}',
		body        => "\xff\0" });

=head1 DESCRIPTION

publish_raw() publishes messages in the order of its arguments, in one call of
rabbitmqctl.  The properties are Erlang's, without the brackets of the list, so
that they can be all that AMQP has types for.  Bodies are bytes, and can be
large: they go through a file of the broker's directory.

=cut

package RawPublish;

use strict;
use warnings;

use Exporter 'import';

our @EXPORT = qw(publish_raw);

sub publish_raw
{
	my ($broker, @messages) = @_;
	my $bodies = $broker->dir . '/bodies';
	my $list   = $broker->dir . '/messages';
	my $offset = 0;

	open my $blob, '>:raw', $bodies or die "could not create $bodies: $!";
	open my $fh,   '>:raw', $list   or die "could not create $list: $!";
	foreach my $message (@messages)
	{
		my $length = length $message->{body};

		print $blob $message->{body};
		print $fh
		  qq({<<"$message->{exchange}">>, <<"$message->{routing_key}">>,),
		  qq( [@{[ $message->{properties} // '' ]}], $offset, $length}.\n);
		$offset += $length;
	}
	close $blob or die "could not write $bodies: $!";
	close $fh   or die "could not write $list: $!";
	$broker->ctl('eval', <<"END");
{ok, Bodies} = file:read_file("$bodies"),
{ok, Messages} = file:consult("$list"),
[ok = rabbit_basic:publish({resource, <<"/">>, exchange, Exchange}, Key,
	Properties, binary:copy(binary:part(Bodies, Offset, Length)))
	|| {Exchange, Key, Properties, Offset, Length} <- Messages],
ok.
END
	unlink $bodies, $list;
	return;
}

1;
