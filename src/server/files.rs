//! The files that are reloaded on SIGHUP.

use std::io;
use std::sync::Arc;
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::cluster::Node;
use crate::doors::event_log::EventLog;
use crate::doors::users::Users;
use crate::http::certificates::Certificates;

/// Everything that reads files or keeps them open.
#[derive(Clone)]
pub(super) struct Files {
    pub(super) users: Option<Arc<Users>>,
    pub(super) certificates: Option<Arc<Certificates>>,
    pub(super) event_log: Option<Arc<EventLog>>,
    pub(super) node: Option<Arc<Node>>,
}

impl Files {
    /// Starts a thread that reloads the files for each message, if there are any: a disk that does not
    /// answer must not keep the server from stopping. A message while another one is queued is dropped.
    pub(super) fn reload_on_demand(self) -> io::Result<Option<Sender<()>>> {
        if !self.exist() {
            return Ok(None);
        }
        let (demand, demands): (_, Receiver<()>) = bounded(1);
        let reload = move || demands.iter().for_each(|()| self.reload());
        thread::Builder::new().name("reload".into()).spawn(reload)?;
        Ok(Some(demand))
    }

    fn exist(&self) -> bool {
        let Self { users, certificates, event_log, node } = self;
        users.is_some()
            || certificates.is_some()
            || event_log.is_some()
            || node.as_ref().is_some_and(|node| node.reloads())
    }

    fn reload(&self) {
        self.event_log.iter().for_each(|event_log| event_log.reopen());
        self.certificates.iter().for_each(|certificates| certificates.reload());
        self.users.iter().for_each(|users| users.reload());
        self.node.iter().for_each(|node| node.look());
    }
}
