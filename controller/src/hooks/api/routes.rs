//! Every route of the API on one screen. The router and the published document are both made of this
//! table, so neither can have what the other lacks.

use serde_json::Value;

use super::body::{
    Acquire, Acquired, Demanded, Described, Done, Entry, Listed, Make, Named, Place, Script, Status, Which,
};

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Endpoint {
    KvGet,
    KvPut,
    KvDelete,
    KvKeys,
    SecretPut,
    SecretDelete,
    Demands,
    Acquire,
    Release,
    Status,
    Make,
    Script,
}

/// A type's name in the document, and its schema.
pub(super) type Schema = (&'static str, fn() -> Value);

/// One route.
pub(super) struct Route {
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    pub(super) endpoint: Endpoint,
    /// One line.
    pub(super) about: &'static str,
    /// Schema of what it takes.
    pub(super) takes: Option<Schema>,
    /// Schema of what it answers; `None` is an empty body.
    pub(super) answers: Option<Schema>,
    /// Statuses besides 200, 400, 401, 405 and 500, which all have, and 408 and 413 of those with a body.
    pub(super) statuses: &'static [u16],
}

macro_rules! routes {
    ($($method:ident $path:literal => $endpoint:ident, ($($takes:ident)?) -> ($($answers:ident)?) $statuses:expr, $about:literal;)*) => {
        /// Every route.
        pub(super) const ROUTES: &[Route] = &[$(Route {
            method: stringify!($method),
            path: $path,
            endpoint: Endpoint::$endpoint,
            about: $about,
            takes: routes!(@schema $($takes)?),
            answers: routes!(@schema $($answers)?),
            statuses: $statuses,
        }),*];
    };
    (@schema) => { None };
    (@schema $type:ident) => { Some((stringify!($type), <$type as Described>::schema)) };
}

/// A list, by its own name in the document.
struct Demands;

impl Described for Demands {
    fn schema() -> Value {
        Vec::<Demanded>::schema()
    }
}

routes! {
    GET "/kv" => KvGet, (Place) -> (Entry) &[404], "Read a key; secrets come in clear";
    PUT "/kv" => KvPut, (Entry) -> () &[], "Write a variable of the own job, or its rollout_order";
    DELETE "/kv" => KvDelete, (Place) -> () &[404], "Delete a variable of the own job";
    GET "/kv/keys" => KvKeys, (Which) -> (Listed) &[], "List the keys of the own job's variables and secrets";
    PUT "/kv/secret" => SecretPut, (Entry) -> () &[], "Write a secret of the own job";
    DELETE "/kv/secret" => SecretDelete, (Place) -> () &[404], "Delete a secret of the own job";
    GET "/demands" => Demands, () -> (Demands) &[], "List the hooks of other jobs that demand this hook";
    POST "/semaphore/acquire" => Acquire, (Acquire) -> (Acquired) &[409], "Wait for a semaphore, first come first served";
    POST "/semaphore/release" => Release, (Named) -> () &[409], "Give a semaphore back; the end of the process does it too";
    GET "/semaphore/status" => Status, (Named) -> (Status) &[], "How a semaphore stands";
    POST "/make" => Make, (Make) -> (Done) &[409, 501, 503], "Run a make target of the own job on a worker, by its agent";
    POST "/script" => Script, (Script) -> (Done) &[409, 501, 503], "Run a shell script on a worker, by its agent";
}
