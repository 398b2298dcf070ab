//! TLS: what is encrypted, who is refused, and certificates that change.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::authority::{Authority, Issued, Secured, text};
use crate::harness::{PATIENCE, Server, lock_body, wait_until};

/// How long a handshake may take, with some room for a busy machine.
const HANDSHAKE: Duration = Duration::from_secs(20);

fn start(authority: &Authority, issued: &Issued, options: &[&str]) -> Server {
    Server::start_with(&[&authority.options(issued)[..], options].concat())
}

fn with_clients(authority: &Authority, options: &[&str]) -> Server {
    let issued = authority.server("server");
    let ca = authority.certificate();
    start(authority, &issued, &[&["--tls-client-ca", text(&ca)], options].concat())
}

/// How many wait for a resource.
fn waiting(client: &mut Secured) -> usize {
    let response = client.request("GET", "/metrics", "");
    assert_eq!(response.status, 200);
    let line = response
        .text()
        .lines()
        .find(|line| line.starts_with("rdlm_locks{state=\"waiting\"} "))
        .unwrap();
    line.split(' ').nth(1).unwrap().parse().unwrap()
}

#[test]
fn locks_are_granted_over_tls() {
    let authority = Authority::new();
    let server = start(&authority, &authority.server("server"), &[]);
    let mut client = authority.connect(&server, None);
    let response = client.request("POST", "/locks/foo", &lock_body(0, 60));
    assert_eq!(response.status, 201);
    let path = response.header("Location").unwrap().strip_prefix("https://localhost").unwrap();
    assert_eq!(client.request("DELETE", path, "").status, 204, "on the same connection");
    // Pipelined, and answered in order.
    for _ in 0..3 {
        client.send_request("GET", "/health", "");
        client.send_request("GET", path, "");
    }
    for _ in 0..3 {
        assert_eq!(client.response().status, 200);
        assert_eq!(client.response().status, 404);
    }
    // A large body, and a list in pieces to the end of the connection.
    let body = format!(r#"{{"title":"t","x":"{}","wait":0,"lifetime":60}}"#, "x".repeat(60_000));
    assert_eq!(client.request("POST", "/locks/bar", &body).status, 201);
    client.send("GET /resources HTTP/1.0\r\n\r\n");
    // Without a close_notify of the server, this would be an error.
    let rest = client.rest();
    assert!(rest.contains("\"bar\"") && rest.ends_with("}\n"), "{rest}");
}

#[test]
fn http_on_the_port_of_tls_is_told_so() {
    let authority = Authority::new();
    let server = start(&authority, &authority.server("server"), &[]);
    for request in ["GET / HTTP/1.1\r\nHost: h\r\n\r\n", "POST /locks/a HTTP/1.1\r\n", "x"] {
        let mut client = server.connect();
        client.send(request);
        let answer = client.rest();
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        assert!(answer.contains("\r\nContent-Type: text/plain"), "{answer}");
        assert!(answer.contains("This port speaks HTTPS"), "{answer}");
        assert!(answer.contains("\r\nRDLM-Version: "), "{answer}");
    }
}

#[test]
fn tls_on_the_port_of_http_ends_in_time() {
    let authority = Authority::new();
    let server = Server::start();
    let began = Instant::now();
    let mut client = authority.connect(&server, None);
    let error = client.stream_mut().read(&mut [0]).unwrap_err();
    assert_ne!(error.kind(), ErrorKind::WouldBlock);
    assert!(began.elapsed() < HANDSHAKE);
}

#[test]
fn old_versions_and_renegotiation_are_refused() {
    let authority = Authority::new();
    let server = start(&authority, &authority.server("server"), &[]);
    let s_client = |options: &[&str], input: &str| {
        let address = format!("127.0.0.1:{}", server.port());
        let mut command = Command::new("timeout");
        command.args(["60", "openssl", "s_client", "-connect", &address]).args(options);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let _ = process.stdin.take().unwrap().write_all(input.as_bytes());
        let output = process.wait_with_output().unwrap();
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        (output.status.success(), text(&output.stdout) + &text(&output.stderr))
    };
    for version in ["-tls1", "-tls1_1"] {
        let (connected, said) = s_client(&[version, "-cipher", "ALL:@SECLEVEL=0"], "");
        assert!(!connected && said.contains("alert"), "{version}: {said}");
    }
    for version in ["-tls1_2", "-tls1_3"] {
        assert!(s_client(&[version], "Q\n").0, "{version}");
    }
    // R asks to renegotiate.
    let (_, said) = s_client(&["-tls1_2"], "R\nGET / HTTP/1.1\r\nHost: h\r\n\r\n");
    assert!(said.contains("RENEGOTIATING") && !said.contains("200 OK"), "{said}");
    // No other client is the worse for it.
    assert_eq!(authority.connect(&server, None).request("GET", "/health", "").status, 200);
}

#[test]
fn handshakes_that_come_to_no_end_are_ended() {
    let authority = Authority::new();
    let server = start(&authority, &authority.server("server"), &[]);
    let mut hello = Vec::new();
    authority.session(None).write_tls(&mut hello).unwrap();
    let began = Instant::now();
    let mut silent: Vec<_> = (0..40).map(|_| server.connect()).collect();
    for (n, client) in silent.iter_mut().enumerate() {
        // From no byte to all but the last one.
        client.send(&hello[..(hello.len() - 1) * n / 39]);
    }
    let mut slow = server.connect();
    let mut sent = 0;
    while slow.try_send(&hello[sent..=sent]).is_ok() && sent + 1 < hello.len() {
        assert!(began.elapsed() < HANDSHAKE, "a byte now and then makes it longer");
        slow.stream().set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let mut answer = [0];
        match (&mut slow.stream()).read(&mut answer) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => sent += 1,
            _ => break,
        }
    }
    for client in &mut silent {
        assert!(client.is_closed());
    }
    assert!(began.elapsed() < HANDSHAKE, "{:?}", began.elapsed());
    let threads = || server.status_field("Threads:");
    wait_until("the threads end", || threads() < 20);
    assert_eq!(authority.connect(&server, None).request("GET", "/health", "").status, 200);
}

#[test]
fn what_is_no_handshake_is_refused_and_takes_no_memory() {
    let authority = Authority::new();
    let server = start(&authority, &authority.server("server"), &[]);
    // A message of 16 MB, as its head says, a record at a time.
    let mut client = server.connect();
    let mut record = vec![0x16, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff];
    record.resize(5 + 0x4000, 0);
    let mut sent = 0;
    while client.try_send(&record).is_ok() {
        sent += record.len();
        assert!(sent < 64 << 20, "it is received for ever");
    }
    assert!(server.status_field("VmHWM:") < 200_000);
}

#[test]
fn a_record_in_pieces_does_not_make_an_idle_connection_live_longer() {
    let authority = Authority::new();
    let server = start(&authority, &authority.server("server"), &["--idle-timeout", "2"]);
    let mut client = authority.connect(&server, None);
    let mut record = Vec::new();
    client.stream_mut().conn.writer().write_all(&[b'x'; 1000]).unwrap();
    client.stream_mut().conn.write_tls(&mut record).unwrap();
    let began = Instant::now();
    client.stream().sock.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    for byte in &record {
        assert!(began.elapsed() < HANDSHAKE);
        if client.stream_mut().sock.write_all(&[*byte]).is_err() {
            return;
        }
        match client.stream_mut().sock.read(&mut [0]) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            _ => return,
        }
    }
    panic!("all of it was taken");
}

#[test]
fn a_client_leaves_the_line_however_it_ends_its_connection() {
    let authority = Authority::new();
    let server = start(&authority, &authority.server("server"), &[]);
    let mut observer = authority.connect(&server, None);
    assert_eq!(observer.acquire("foo", 0.0, 600.0).status, 201);
    type Leave = (&'static str, fn(&mut Secured));
    let leave: [Leave; 4] = [
        ("says so, and keeps the connection", |client| {
            client.stream_mut().conn.send_close_notify();
            client.stream_mut().flush().unwrap();
        }),
        ("ends the connection and says nothing", |client| {
            client.stream().sock.shutdown(std::net::Shutdown::Write).unwrap();
        }),
        ("sends what is no TLS", |client| client.stream_mut().sock.write_all(&[0; 50]).unwrap()),
        ("sends another request, then ends the connection", |client| {
            client.send_request("GET", "/health", "");
            client.stream().sock.shutdown(std::net::Shutdown::Write).unwrap();
        }),
    ];
    for (how, leave) in leave {
        let mut client = authority.connect(&server, None);
        client.send_acquire("foo", 600.0, 600.0);
        wait_until("the request waits", || waiting(&mut observer) == 1);
        leave(&mut client);
        wait_until(how, || waiting(&mut observer) == 0);
    }
    // A request behind the one that waits is no departure.
    let mut client = authority.connect(&server, None);
    client.send_acquire("foo", 600.0, 600.0);
    wait_until("the request waits", || waiting(&mut observer) == 1);
    client.send_request("GET", "/health", "");
    assert_eq!(observer.request("GET", "/health", "").status, 200);
    assert_eq!(waiting(&mut observer), 1);
    assert_eq!(observer.request("DELETE", "/resources", "").status, 204);
    assert_eq!(client.response().status, 409);
    assert_eq!(client.response().status, 200);
}

#[test]
fn who_waits_at_the_end_of_the_server_is_told() {
    let authority = Authority::new();
    let mut server = start(&authority, &authority.server("server"), &[]);
    let mut observer = authority.connect(&server, None);
    observer.request("POST", "/locks/foo", &lock_body(0, 600));
    let mut client = authority.connect(&server, None);
    client.send_acquire("foo", 600.0, 600.0);
    wait_until("the request waits", || waiting(&mut observer) == 1);
    server.signal("-TERM");
    assert_eq!(client.response().status, 503);
    assert!(server.wait().success());
}

#[test]
fn events_are_streamed_and_their_followers_may_leave() {
    let authority = Authority::new();
    let server = start(&authority, &authority.server("server"), &["--max-subscribers", "1"]);
    let mut follower = authority.connect(&server, None);
    follower.send_request("GET", "/events", "");
    let mut client = authority.connect(&server, None);
    let mut seen = String::new();
    wait_until("it is heard", || {
        client.request("POST", "/locks/foo", &lock_body(0, 0.001));
        let mut bytes = [0; 4096];
        let len = follower.stream_mut().read(&mut bytes).unwrap();
        seen += std::str::from_utf8(&bytes[..len]).unwrap();
        seen.contains("event: granted")
    });
    follower.stream_mut().conn.send_close_notify();
    follower.stream_mut().flush().unwrap();
    wait_until("there is a place again", || {
        let mut next = authority.connect(&server, None);
        next.send_request("HEAD", "/events", "");
        next.response();
        let headers = "Host: localhost\r\nConnection: close";
        next.send_with_headers("GET", "/events", headers, "");
        next.head().status == 200
    });
}

/// The certificate that a new connection is shown.
fn shown(authority: &Authority, server: &Server) -> Vec<u8> {
    let client = authority.connect(server, None);
    client.stream().conn.peer_certificates().unwrap()[0].to_vec()
}

#[test]
fn changed_certificates_are_used_and_bad_ones_are_not() {
    let authority = Authority::new();
    let [first, second] = ["first", "second"].map(|name| authority.server(name));
    let expired = authority.issue("expired", "localhost", Some("DNS:localhost"), "-1");
    let in_use = Issued {
        certificate: authority.path().join("in-use.pem"),
        key: authority.path().join("in-use.key"),
    };
    let put = |issued: &Issued| {
        fs::copy(&issued.certificate, &in_use.certificate).unwrap();
        fs::copy(&issued.key, &in_use.key).unwrap();
    };
    put(&first);
    let mut server = start(&authority, &in_use, &[]);
    let mut kept = authority.connect(&server, None);
    let old = shown(&authority, &server);
    let half = fs::read(&second.certificate).unwrap();
    type Harm<'a> = Box<dyn Fn() + 'a>;
    let harm: [(&str, Harm<'_>); 6] = [
        (
            "is not that of the certificate",
            Box::new(|| {
                fs::copy(&second.certificate, &in_use.certificate).unwrap();
            }),
        ),
        ("has expired", Box::new(|| put(&expired))),
        ("cannot read", Box::new(|| fs::remove_file(&in_use.key).unwrap())),
        (
            "in-use.pem",
            Box::new(|| {
                put(&second);
                fs::write(&in_use.certificate, &half[..half.len() / 2]).unwrap();
            }),
        ),
        ("no certificate", Box::new(|| fs::write(&in_use.certificate, "").unwrap())),
        (
            "no private key",
            Box::new(|| {
                put(&second);
                fs::write(&in_use.key, "nonsense").unwrap();
            }),
        ),
    ];
    for (line, harm) in harm {
        harm();
        server.signal("-HUP");
        server.read_log_to(line);
        assert_eq!(shown(&authority, &server), old, "{line}");
    }
    put(&second);
    server.signal("-HUP");
    server.read_log_to("taken anew");
    let new = shown(&authority, &server);
    assert_ne!(new, old);
    assert_eq!(kept.request("GET", "/health", "").status, 200, "connections go on");
    // Without a signal, too.
    put(&first);
    wait_until("it is taken anew", || shown(&authority, &server) == old);
    // What is wrong for long is said once.
    fs::write(&in_use.key, "").unwrap();
    for _ in 0..3 {
        server.signal("-HUP");
        shown(&authority, &server);
    }
    let log = server.into_log();
    assert!(log.matches("no private key").count() <= 1, "{log}");
}

#[test]
fn a_certificate_that_is_no_good_at_the_start_is_an_error_in_a_line() {
    let authority = Authority::new();
    let [good, other] = ["good", "other"].map(|name| authority.server(name));
    let expired = authority.issue("expired", "localhost", None, "-1");
    let serve = |options: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rdlm"));
        let output = command.args(["serve", "--port", "0", "--logging", "none"]).args(options);
        let output = output.stdin(Stdio::null()).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (certificate, key) = (text(&good.certificate), text(&good.key));
    let [other_key, old, old_key] =
        [&other.key, &expired.certificate, &expired.key].map(|p| text(p));
    for (code, says, options) in [
        (1, "is not that of", &["--tls-cert", certificate, "--tls-key", other_key][..]),
        (1, "has expired", &["--tls-cert", old, "--tls-key", old_key]),
        (1, "cannot read /nope", &["--tls-cert", "/nope", "--tls-key", key]),
        (1, "no certificate", &["--tls-cert", key, "--tls-key", key]),
        (1, "no private key", &["--tls-cert", certificate, "--tls-key", certificate]),
        (
            1,
            "no certificate",
            &["--tls-cert", certificate, "--tls-key", key, "--tls-client-ca", key],
        ),
        (1, "is longer than", &["--tls-cert", "/dev/zero", "--tls-key", key]),
        (2, "go together", &["--tls-cert", certificate]),
        (2, "go together", &["--tls-key", key]),
        (2, "goes with", &["--tls-client-ca", certificate]),
        (
            1,
            "--advertise-ca names its authority",
            &["--tls-cert", certificate, "--tls-key", key, "--etcd", "http://127.0.0.1:1"],
        ),
    ] {
        let (ended, line) = serve(options);
        assert_eq!(ended, Some(code), "{options:?}: {line}");
        assert!(line.contains(says) && line.lines().count() == 1, "{options:?}: {line}");
    }
}

#[test]
fn clients_without_a_certificate_of_the_authority_are_refused() {
    let authority = Authority::new();
    let server = with_clients(&authority, &[]);
    // The status of an answer, if the connection is there for one.
    let get = |own: Option<&Issued>| {
        let mut client = authority.connect(&server, own);
        client.try_send(b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n").ok()?;
        client.try_response().ok().map(|response| response.status)
    };
    assert_eq!(get(Some(&authority.client("alice"))), Some(200));
    assert_eq!(get(None), None);
    assert_eq!(get(Some(&Authority::new().client("alice"))), None, "of another authority");
    assert_eq!(get(Some(&authority.issue("late", "alice", None, "-1"))), None, "expired");
    // What one has shown is not taken for the next.
    assert_eq!(get(None), None);
}

#[test]
fn the_commands_speak_tls() {
    let authority = Authority::new();
    let server = with_clients(&authority, &[]);
    let (ca, alice) = (authority.certificate(), authority.client("alice"));
    let url = format!("https://localhost:{}", server.port());
    let run = |args: &[&str], variables: &[(&str, &str)]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rdlm"));
        for name in ["SSL_CERT_FILE", "RDLM_CA", "RDLM_CERT", "RDLM_KEY", "RDLM_USER", "RDLM_TOKEN"]
        {
            command.env_remove(name);
        }
        command.envs(variables.iter().copied()).env("RDLM_URL", &url).args(args);
        let output = command.stdin(Stdio::null()).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    };
    let options =
        ["--ca", text(&ca), "--cert", text(&alice.certificate), "--key", text(&alice.key)];
    let (code, lock, errors) = run(&[&["acquire"], &options[..], &["foo"]].concat(), &[]);
    assert_eq!((code, &*errors), (0, ""));
    assert!(lock.starts_with(&url), "{lock}");
    let variables = [
        ("RDLM_CA", text(&ca)),
        ("RDLM_CERT", text(&alice.certificate)),
        ("RDLM_KEY", text(&alice.key)),
    ];
    assert_eq!(run(&["release", lock.trim()], &variables).0, 0);
    assert_eq!(run(&["run", "foo", "--", "true"], &variables).0, 0);
    let (code, _, errors) = run(&["health"], &variables[1..]);
    assert!(code == 69 && errors.contains("certificate"), "{code} {errors}");
    for (variables, code) in [(&variables[..1], 69), (&variables[..2], 64)] {
        let (ended, _, errors) = run(&["health"], variables);
        assert!(ended == code && errors.lines().count() == 1, "{ended} {errors}");
    }
    let wrong = [variables[0], variables[1], ("RDLM_KEY", text(&ca))];
    let (code, _, errors) = run(&["resources"], &wrong);
    assert!(code == 64 && errors.contains("RDLM_KEY"), "{code} {errors}");
    let (code, _, errors) = run(&["resources", "--ca", "/nope"], &[]);
    assert!(code == 64 && errors.contains("--ca /nope"), "{code} {errors}");
}

/// What a command says that talks to a server in the wrong way.
fn refused(url: &str, options: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rdlm"));
    for name in ["SSL_CERT_FILE", "RDLM_CA", "RDLM_CERT", "RDLM_KEY"] {
        command.env_remove(name);
    }
    command.args(["acquire", "--url", url]).args(options).arg("foo").stdin(Stdio::null());
    let began = Instant::now();
    let output = command.output().unwrap();
    let line = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), line.lines().count()), (Some(76), 1), "{line}");
    assert!(began.elapsed() < Duration::from_secs(10), "it will not change: {line}");
    line
}

#[test]
fn the_commands_say_what_is_wrong_between_them_and_a_server() {
    let (authority, other) = (Authority::new(), Authority::new());
    let server = with_clients(&authority, &[]);
    let port = server.port();
    let ca = authority.certificate();
    let line = refused(&format!("http://localhost:{port}"), &[]);
    let expected = format!("http://localhost:{port} speaks TLS: use https://localhost:{port}\n");
    assert_eq!(line, format!("rdlm: {expected}"));
    let plain = Server::start();
    let line = refused(&format!("https://localhost:{}", plain.port()), &[]);
    assert!(line.contains("does not speak TLS: use http://localhost:"), "{line}");
    let url = format!("https://localhost:{port}");
    let other_ca = other.certificate();
    for options in [&[][..], &["--ca", text(&other_ca)]] {
        let line = refused(&url, options);
        assert!(line.contains("by an authority that is not trusted here: --ca FILE"), "{line}");
    }
    let line = refused(&url, &["--ca", text(&ca)]);
    assert!(line.contains("it asks for a certificate: --cert and --key"), "{line}");
    let elsewhere = authority.issue("elsewhere", "elsewhere", Some("DNS:elsewhere"), "2");
    let elsewhere = start(&authority, &elsewhere, &[]);
    let line = refused(&format!("https://localhost:{}", elsewhere.port()), &["--ca", text(&ca)]);
    assert!(line.contains("not valid for name"), "{line}");
}

/// In the words of others, or in none: a TLS alert.
#[test]
fn a_port_of_tls_is_recognised_whatever_serves_it() {
    let nginx = "HTTP/1.1 400 Bad Request\r\nServer: nginx\r\nContent-Type: text/html\r\n\
                 Connection: close\r\n\r\n<h1>The plain HTTP request was sent to HTTPS port</h1>";
    let go = "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";
    for answer in [nginx.as_bytes(), go.as_bytes(), b"\x15\x03\x01\x00\x02\x02\x46"] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://127.0.0.1:{}", listener.local_addr().unwrap().port());
        let answering = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 4096]).unwrap();
            stream.write_all(answer).unwrap();
        });
        assert!(refused(&url, &[]).contains("speaks TLS: use https://127.0.0.1:"));
        answering.join().unwrap();
    }
}

#[test]
fn a_browser_page_without_tls_is_another_site() {
    let authority = Authority::new();
    let server = start(&authority, &authority.server("server"), &[]);
    let mut client = authority.connect(&server, None);
    for (origin, expected) in [("https://localhost", 204), ("http://localhost", 403)] {
        let headers = format!("Host: localhost\r\nOrigin: {origin}");
        client.send_with_headers("DELETE", "/resources", &headers, "");
        assert_eq!(client.response().status, expected, "{origin}");
    }
    assert!(PATIENCE > HANDSHAKE);
}
