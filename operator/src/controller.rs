//! What all controllers have in common: objects are looked at when something changed, again where that failed, and every
//! look is counted.

use std::fmt::Debug;
use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use kube::runtime::applier;
use kube::runtime::controller::{Action, Config};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Resource, ResourceExt as _};
use tokio::sync::broadcast;
use tokio::sync::mpsc::UnboundedReceiver;
use tracing::warn;

use crate::context::{Context, Error};
use crate::queues;

/// How long to wait until a look that failed is tried again.
const RETRY: Duration = Duration::from_secs(2);
/// A deletion that was missed, as while a watch was broken, is mended after this time.
pub const RESYNC: Duration = Duration::from_mins(10);

/// A controller of one kind.
pub struct Controller<K: Resource<DynamicType = ()> + 'static> {
    /// Its name in metrics.
    pub name: &'static str,
    /// What it looks at.
    pub store: Store<K>,
    /// Says at which.
    pub triggers: UnboundedReceiver<ObjectRef<K>>,
    /// Ends it: what is being looked at is finished, nothing new begins.
    pub stop: broadcast::Receiver<()>,
    /// Looks at once.
    pub concurrency: u16,
}

/// What came of a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done {
    /// One word for metrics.
    pub outcome: &'static str,
    /// When to look again, whatever happens.
    pub again: Duration,
}

impl<K> Controller<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + Send + Sync + 'static,
    K::DynamicType: Eq + Hash + Clone,
{
    /// Looks at objects until it is told to stop.
    pub async fn run<Look>(
        mut self,
        context: Arc<Context>,
        look: impl Fn(Arc<K>, Arc<Context>) -> Look + Send + 'static,
    ) where
        Look: Future<Output = Result<Done, Error>> + Send + 'static,
    {
        let name = self.name;
        let queue = queues::stream(self.triggers).take_until(async move { self.stop.recv().await });
        let reconcile = move |object: Arc<K>, context: Arc<Context>| {
            let looking = look(Arc::clone(&object), Arc::clone(&context));
            Box::pin(async move {
                let begun = Instant::now();
                let done = looking.await;
                let outcome = done.as_ref().map_or_else(Error::category, |done| done.outcome);
                context.metrics.reconciled(name, outcome, begun.elapsed());
                if let Err(error) = &done {
                    warn!(controller = name, namespace = object.namespace(), name = object.name_any(), %error,
                        retry_in = ?RETRY, "could not be seen to");
                }
                done.map(|done| Action::requeue(done.again))
            })
        };
        let again = |_, _: &Error, _| Action::requeue(RETRY);
        let config = Config::default().concurrency(self.concurrency);
        applier(reconcile, again, context, self.store, Box::pin(queue), config)
            .for_each(|_| std::future::ready(()))
            .await;
    }
}
