//! What parts keep from one configuration to the next.

use super::client::ClientLayer;
use super::client_parts::ClientParts;
use super::live::{Live, Parts};
use super::part::Faults;
use super::server::{ServerLayer, ServerParts};
use crate::conditioner::Conditioner;
use crate::endpoints::Endpoints;
use crate::managed::Home;
use crate::name::Name;
use crate::retry::Record;
use crate::slot::Slot;

/// What is to be done outside of all locks before new parts take the place of old ones.
pub(crate) type PartsChange = Box<dyn FnOnce() + Send>;

impl ClientParts {
    /// Takes what nobody shares from `before`, which has learned something. Changes nothing yet: the result does.
    #[expect(clippy::unused_self, reason = "to come")]
    pub(crate) fn keep(&mut self, _before: Option<&Self>) -> Vec<PartsChange> {
        Vec::new()
    }

    /// The same for what is counted of its retries.
    pub(crate) fn keep_record(&mut self, before: Option<&Self>, home: Home) -> Option<PartsChange> {
        let record = before.and_then(|before| before.record.clone());
        match (self.policy, record) {
            (Some(policy), record) => {
                let record = record.unwrap_or_else(|| Record::new(self.name, home));
                self.record = Some(record.clone());
                let budget = self.budget.clone();
                Some(Box::new(move || record.show(policy, budget.as_ref())))
            }
            (None, Some(record)) => Some(Box::new(move || record.forget())),
            (None, None) => None,
        }
    }
}

impl Live<ClientLayer> {
    /// A client with these parts, and faults in `faults`.
    pub(crate) fn client(
        name: Name,
        parts: ClientParts,
        faults: Slot<Conditioner>,
    ) -> Live<
        ClientLayer<
            crate::AnyError,
            crate::retry::CloneRequest,
            crate::NoContext,
            crate::AsError,
            Faults,
        >,
    > {
        let layer = ClientLayer::of(ClientParts::none(name, Endpoints::<()>::builder(name)));
        Live { layer: layer.conditioner(faults), slot: Slot::with(Parts::Client(parts)) }
    }
}

impl Live<ServerLayer> {
    /// A server with these parts, and faults in `faults`.
    pub(crate) fn server(
        name: Name,
        parts: ServerParts,
        faults: Slot<Conditioner>,
    ) -> Live<ServerLayer<crate::AnyError, crate::NoContext, crate::AsError, super::Absent, Faults>>
    {
        let layer = ServerLayer::empty(name).conditioner(faults);
        Live { layer, slot: Slot::with(Parts::Server(parts)) }
    }
}

impl<L> Live<L> {
    pub(crate) fn parts_slot(&self) -> &Slot<Parts> {
        &self.slot
    }
}
