//! Accepting connections, and serving each on a thread.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use log::{debug, error, info};

use super::connections::{Connections, Permit};
use super::in_flight::{InFlight, InFlightGuard};
use super::limits;
use super::workers::{NoThread, Workers};
use crate::cluster::Node;
use crate::doors::Service;
use crate::http::certificates::Certificates;
use crate::http::connection::{Connection, Exchange, Next, NotEncrypted};
use crate::http::departures::ConnectionState;
use crate::http::listener::Listener;
use crate::http::{Status, Unreadable};
use crate::lock::Pending;
use crate::metrics::Metrics;
use crate::proxy::{Answered, Forwarding};

/// How long to wait before accepting again when the system has run out of something.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// How often the same failure is logged, at most.
const LOGGED: Duration = Duration::from_secs(60);

/// A connection to be served.
pub(super) struct Job {
    connection: Connection,
    permit: Permit,
}

/// Answers the requests of all connections.
pub(super) struct Server {
    service: Service,
    metrics: Arc<Metrics>,
    node: Option<Arc<Node>>,
    certificates: Option<Arc<Certificates>>,
    connections: Connections,
    in_flight: Arc<InFlight>,
}

impl Server {
    pub(super) fn new(
        service: Service,
        metrics: Arc<Metrics>,
        node: Option<Arc<Node>>,
        certificates: Option<Arc<Certificates>>,
        connections: Connections,
    ) -> Self {
        metrics.look_for_idle_connections({
            let connections = connections.clone();
            move || connections.idle()
        });
        let in_flight = Arc::new(InFlight::new());
        Self { service, metrics, node, certificates, connections, in_flight }
    }

    /// Refuses requests and connections from now on.
    pub(super) fn shut_down(&self) {
        self.service.shut_down();
        self.connections.close();
    }

    /// A channel that gets a message when no request is being answered.
    pub(super) fn drained(&self) -> Receiver<()> {
        self.in_flight.drain()
    }

    /// The threads for connections. A few start now, so that locks can be released and renewed also
    /// when the system is out of threads.
    ///
    /// # Errors
    /// It is out of threads now.
    pub(super) fn workers(self: &Arc<Self>) -> io::Result<Workers<Job>> {
        let server = Arc::clone(self);
        Workers::new(limits::RESERVE, move |job: Job| {
            let _open = server.metrics.connection_opened();
            server.serve(job.connection, &Arc::new(job.permit));
        })
    }

    /// The loop of the accepting thread.
    pub(super) fn accept(&self, listener: &Listener, workers: &Workers<Job>) {
        let mut accepting = Outage::of("accept connections", "accepting connections again");
        let mut starting = Outage::of("start threads for connections", "starting threads again");
        while !self.connections.is_closed() {
            let connection = match listener.accept() {
                Ok(connection) => connection,
                Err(error) if is_of_one_connection(&error) => continue,
                Err(error) => {
                    if !self.connections.is_closed() {
                        accepting.failed(&error);
                    }
                    self.connections.pause(ACCEPT_RETRY);
                    continue;
                }
            };
            accepting.worked();
            let Some(permit) = self.connections.admit(connection.shutdown_handle()) else { return };
            match workers.start(Job { connection, permit }) {
                Ok(()) => starting.worked(),
                Err(NoThread { job, error }) => {
                    starting.failed(&error);
                    self.serve_in_reserve(job, workers);
                }
            }
        }
    }

    /// Serves a connection on a reserved thread, on which no request may wait for a lock.
    fn serve_in_reserve(&self, mut job: Job, workers: &Workers<Job>) {
        job.connection.forbid_waiting();
        while !self.connections.is_closed() {
            let timeout = self.connections.make_room();
            let Err(back) = workers.start_in_reserve(job, timeout) else { return };
            // There may be threads again.
            let Err(NoThread { job: back, .. }) = workers.start(back) else { return };
            job = back;
        }
    }

    fn serve(&self, mut connection: Connection, permit: &Arc<Permit>) {
        match self.certificates.as_ref().map(|certificates| connection.encrypt(certificates)) {
            None | Some(Ok(())) => {}
            Some(Err(NotEncrypted::NotTls)) => {
                return connection.refuse(&self.service.refuse_unencrypted());
            }
            Some(Err(NotEncrypted::Failed(error))) => {
                debug!("a TLS handshake failed: {error}");
                return connection.linger();
            }
        }
        let mut forwarding = Forwarding::default();
        permit.idle();
        loop {
            let mut incoming = match connection.next_request() {
                Ok(Some(incoming)) => incoming,
                Ok(None) => return,
                // The server has cut the request off, so the client may send it again.
                Err(Unreadable::Incomplete) if !permit.busy() => {
                    return connection.refuse(&self.service.refuse(Unreadable::TooSlow));
                }
                Err(error) => return connection.refuse(&self.service.refuse(error)),
            };
            if !permit.busy() {
                incoming.came_too_late();
            }
            if incoming.lacks_body()
                && let Some(refusal) =
                    self.service.answer_to_head(&incoming.request, incoming.client())
            {
                if incoming.refuse(&refusal).is_ok() {
                    connection.linger();
                }
                return;
            }
            let exchange = match incoming.receive() {
                Ok(exchange) => exchange,
                Err(error) => return connection.refuse(&self.service.refuse(error)),
            };
            let client_goes_on = exchange.request.keep_alive;
            match self.answer(exchange, &mut forwarding, permit) {
                Ok(Next::Request) => {}
                Ok(Next::Close) if client_goes_on => return connection.linger(),
                Ok(Next::Close) | Err(_) => return,
            }
        }
    }

    /// Answers one request. If only the journal's write is outstanding, the journal's thread sends the
    /// response.
    fn answer(
        &self,
        exchange: Exchange<'_>,
        forwarding: &mut Forwarding,
        permit: &Arc<Permit>,
    ) -> io::Result<Next> {
        let mut busy = Busy { permit: Arc::clone(permit), _in_flight: self.in_flight.begin() };
        let state = exchange.client.state();
        let answered = match &self.node {
            Some(node) => node.answer(&exchange, forwarding, &self.service),
            None => {
                let response = self.service.answer(&exchange.request, exchange.client);
                if matches!(response, Pending::Later(_)) && !permit.is_wanted() {
                    match exchange.detach(busy) {
                        Ok(detached) => {
                            response.then(|response| detached.respond(response));
                            return Ok(Next::Request);
                        }
                        Err(back) => busy = back,
                    }
                }
                Answered::Response(response.wait())
            }
        };
        let _busy = busy;
        match answered {
            Answered::Response(mut response) => {
                // Not with a 408: some clients repeat a request when one ends its connection.
                let makes_room = permit.is_wanted() || state == ConnectionState::NoWaiting;
                response.close |= makes_room && response.status != Status::RequestTimeout;
                response.close |= state == ConnectionState::Ended;
                exchange.respond(response)
            }
            Answered::Instead(response, withheld) => {
                let sent = exchange.respond(response);
                drop(withheld);
                sent
            }
            Answered::Passed(next) => Ok(next),
            Answered::Gone => Err(io::ErrorKind::ConnectionAborted.into()),
        }
    }
}

/// Lives until the response to a request has been sent.
struct Busy {
    permit: Arc<Permit>,
    _in_flight: InFlightGuard,
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.permit.idle();
    }
}

/// A failure that may last. Its start and its end are logged, once a minute at most.
struct Outage {
    what: &'static str,
    again: &'static str,
    lasts: bool,
    logged: Option<Instant>,
}

impl Outage {
    fn of(what: &'static str, again: &'static str) -> Self {
        Self { what, again, lasts: false, logged: None }
    }

    fn failed(&mut self, error: &io::Error) {
        let is_time = self.logged.is_none_or(|logged| logged.elapsed() >= LOGGED);
        if !self.lasts && is_time {
            error!("cannot {} for now: {error}", self.what);
            self.lasts = true;
            self.logged = Some(Instant::now());
        }
    }

    fn worked(&mut self) {
        if self.lasts {
            info!("{}", self.again);
        }
        self.lasts = false;
    }
}

/// Whether a failure of accept(2) concerns one connection only, whose client is gone already.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}
