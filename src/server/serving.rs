//! Accepting connections, and serving each on a thread.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Receiver;
use log::{debug, error, info};

use super::connections::{Connections, Permit};
use super::in_flight::{InFlight, InFlightGuard};
use super::workers::Workers;
use crate::cluster::{Answered, Forwarding, Member};
use crate::doors::Service;
use crate::http::Status;
use crate::http::certificates::Certificates;
use crate::http::connection::{Connection, Exchange, Next, NotEncrypted};
use crate::http::listener::Listener;
use crate::lock::Pending;
use crate::metrics::Metrics;

/// How long to wait before accepting again when the system has run out of something.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// What answers the requests of all connections.
pub(super) struct Server {
    service: Service,
    metrics: Arc<Metrics>,
    member: Option<Arc<Member>>,
    certificates: Option<Arc<Certificates>>,
    connections: Connections,
    in_flight: Arc<InFlight>,
}

impl Server {
    pub(super) fn new(
        service: Service,
        metrics: Arc<Metrics>,
        member: Option<Arc<Member>>,
        certificates: Option<Arc<Certificates>>,
        connections: Connections,
    ) -> Self {
        metrics.look_for_idle_connections({
            let connections = connections.clone();
            move || connections.idle()
        });
        let in_flight = Arc::new(InFlight::new());
        Self { service, metrics, member, certificates, connections, in_flight }
    }

    /// Refuses requests from now on, and lets no connection in.
    pub(super) fn shut_down(&self) {
        self.service.shut_down();
        self.connections.close();
    }

    /// A channel that gets a message when no request is being answered.
    pub(super) fn drained(&self) -> Receiver<()> {
        self.in_flight.drain()
    }

    /// The loop of the accepting thread.
    pub(super) fn accept(self: Arc<Self>, listener: &Listener) {
        let server = Arc::clone(&self);
        let workers = Workers::new(move |(connection, permit): (Connection, Permit)| {
            let _open = server.metrics.connection_opened();
            server.serve(connection, &Arc::new(permit));
        });
        let mut failing = false;
        while !self.connections.is_closed() {
            let served = match listener.accept() {
                Ok(connection) => match self.connections.admit(connection.hang_up()) {
                    Some(permit) => workers.start((connection, permit)),
                    None => return,
                },
                Err(error) if is_of_one_connection(&error) => continue,
                Err(error) => Err(error),
            };
            match served {
                Ok(()) if failing => {
                    failing = false;
                    info!("accepting connections again");
                }
                Ok(()) => {}
                Err(error) => {
                    if !failing && !self.connections.is_closed() {
                        failing = true;
                        error!("cannot accept connections for now: {error}");
                    }
                    self.connections.pause(ACCEPT_RETRY);
                }
            }
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
            let incoming = match connection.next_request() {
                Ok(Some(incoming)) => incoming,
                Ok(None) => return,
                Err(error) => return connection.refuse(&self.service.refuse(error)),
            };
            permit.busy();
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

    /// Answers one request, or leaves that to the thread that writes, if nothing else is waited
    /// for.
    fn answer(
        &self,
        exchange: Exchange<'_>,
        forwarding: &mut Forwarding,
        permit: &Arc<Permit>,
    ) -> io::Result<Next> {
        let mut busy = Busy { permit: Arc::clone(permit), _in_flight: self.in_flight.begin() };
        let answered = match &self.member {
            Some(member) => member.answer(&exchange, forwarding, &self.service),
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
                // Some clients send a request again by themselves when a 408 ends its connection.
                response.close |= permit.is_wanted() && response.status != Status::RequestTimeout;
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

/// As long as this lives, a request has not got its response.
struct Busy {
    permit: Arc<Permit>,
    _in_flight: InFlightGuard,
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.permit.idle();
    }
}

/// The client was gone before its connection was accepted; other clients are not concerned.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}
