#!/usr/bin/env escript
%% The life of a lock with Erlang's httpc: life.escript URL.
%%
%% By itself it queues a request behind one that waits on the same connection, so a release would
%% stand behind its own wait: see docs/api.md.

main([Base]) ->
    inets:start(),
    httpc:set_options([{max_keep_alive_length, 0}]),
    expect(201, post, Base ++ "/locks/life", lock("0", "1")),
    expect(408, post, Base ++ "/locks/life", lock("0.2", "60")),
    {Headers, Granted} = expect(201, post, Base ++ "/locks/life", lock("30", "60")),
    has(Granted, "\"active\":true"),
    Location = proplists:get_value("location", Headers),
    {_, Renewed} = expect(200, patch, Location, "{\"lifetime\":30}"),
    has(Renewed, "\"lifetime\":30"),
    expect(200, get, Location, none),
    {error, timeout} = call(post, Base ++ "/locks/life", lock("30", "60"), 500),
    releases_while_it_waits(Base, Location),
    expect(404, delete, Location, none),
    expect(413, post, Base ++ "/locks/life", lists:duplicate(70000, $\s)),
    [expect(200, get, Base ++ "/", none) || _ <- lists:seq(1, 100)].

%% The waiter is granted the lock, and its lock is gone with its lifetime.
releases_while_it_waits(Base, Location) ->
    Self = self(),
    spawn_link(fun() ->
        expect(201, post, Base ++ "/locks/life", lock("30", "0.5")),
        Self ! granted
    end),
    timer:sleep(300),
    expect(204, delete, Location, none),
    receive granted -> ok after 5000 -> exit("the release stood behind the wait") end.

lock(Wait, Lifetime) ->
    "{\"title\":\"Erlang\",\"wait\":" ++ Wait ++ ",\"lifetime\":" ++ Lifetime ++ "}".

call(Method, Url, none, Timeout) ->
    httpc:request(Method, {Url, []}, [{timeout, Timeout}], []);
call(Method, Url, Body, Timeout) ->
    httpc:request(Method, {Url, [], "application/json", Body}, [{timeout, Timeout}], []).

expect(Status, Method, Url, Body) ->
    case call(Method, Url, Body, 60000) of
        {ok, {{_, Status, _}, Headers, Content}} -> {Headers, Content};
        Other -> exit({Method, Url, Other})
    end.

has(Text, Part) ->
    case string:find(Text, Part) of nomatch -> exit({no, Part, Text}); _ -> ok end.
