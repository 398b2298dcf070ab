# The life of a lock with Perl's HTTP::Tiny: life.pl URL.

use strict;
use warnings;
use HTTP::Tiny;
use JSON::PP;

my $base = shift;
my $http = HTTP::Tiny->new(keep_alive => 1, timeout => 60);

sub expect {
    my ($status, $method, $path, $body) = @_;
    my $answer = $http->request($method, $base . $path, defined $body ? { content => $body } : {});
    die "$method $path: $answer->{status} in place of $status: $answer->{content}\n"
        if $answer->{status} != $status;
    return $answer;
}

sub lock_for {
    my ($wait, $lifetime) = @_;
    return qq({"title":"Perl","wait":$wait,"lifetime":$lifetime});
}

expect(201, "POST", "/locks/life", lock_for(0, 1));
expect(408, "POST", "/locks/life", lock_for(0.2, 60));
my $granted = expect(201, "POST", "/locks/life", lock_for(30, 60));
my ($path) = $granted->{headers}{location} =~ m{^http://[^/]*(/.*)};
decode_json($granted->{content})->{active} or die $granted->{content};
my $renewed = expect(200, "PATCH", $path, '{"lifetime":30}');
decode_json($renewed->{content})->{lifetime} == 30 or die $renewed->{content};
expect(200, "GET", $path);
# A client that gives up: 599 is its own. Its time-outs are whole seconds.
my $late = HTTP::Tiny->new(timeout => 1)
    ->request("POST", "$base/locks/life", { content => lock_for(30, 60) });
$late->{status} == 599 or die "there was no time-out\n";
expect(204, "DELETE", $path);
expect(404, "DELETE", $path);
expect(413, "POST", "/locks/life", " " x 70_000);
expect(200, "GET", "/") for 1 .. 100;
