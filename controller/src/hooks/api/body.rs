//! The bodies of the API, each declared once: the declaration is the type that a handler parses or
//! answers with, and its part of the published document.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// What the document says of a type.
pub(super) trait Described {
    /// It may be left out.
    const OPTIONAL: bool = false;

    /// As a JSON schema.
    fn schema() -> Value;
}

impl Described for String {
    fn schema() -> Value {
        json!({ "type": "string" })
    }
}

impl Described for i64 {
    fn schema() -> Value {
        json!({ "type": "integer" })
    }
}

impl Described for bool {
    fn schema() -> Value {
        json!({ "type": "boolean" })
    }
}

impl Described for Map<String, Value> {
    fn schema() -> Value {
        json!({ "type": "object" })
    }
}

impl<T: Described> Described for Option<T> {
    const OPTIONAL: bool = true;

    fn schema() -> Value {
        T::schema()
    }
}

impl<T: Described> Described for Vec<T> {
    fn schema() -> Value {
        json!({ "type": "array", "items": T::schema() })
    }
}

impl<T: Described> Described for BTreeMap<String, T> {
    fn schema() -> Value {
        json!({ "type": "object", "additionalProperties": T::schema() })
    }
}

macro_rules! body {
    ($(#[doc = $about:literal])+ $name:ident { $($(#[doc = $doc:literal])+ $field:ident: $type:ty,)* }) => {
        $(#[doc = $about])+
        #[derive(Debug, Default, Serialize, Deserialize)]
        #[serde(default)]
        pub(super) struct $name {
            $($(#[doc = $doc])+
            #[serde(skip_serializing_if = "absent")]
            pub(super) $field: $type,)*
        }

        impl Described for $name {
            fn schema() -> Value {
                let mut properties = Map::new();
                let mut required: Vec<&str> = Vec::new();
                $(
                    let mut field = <$type as Described>::schema();
                    field["description"] = concat!($($doc),+).trim().into();
                    properties.insert(stringify!($field).to_owned(), field);
                    if !<$type as Described>::OPTIONAL {
                        required.push(stringify!($field));
                    }
                )*
                let about = concat!($($about),+).trim();
                json!({ "type": "object", "description": about, "required": required, "properties": properties })
            }
        }
    };
}

/// A field that says nothing is not written; `null` is nothing.
fn absent<T: Serialize>(field: &T) -> bool {
    matches!(serde_json::to_value(field), Ok(Value::Null))
}

body! {
    /// One key.
    Place {
        /// Such as vars/job/api.
        namespace: String,
        /// Such as db_name.
        key: String,
    }
}

body! {
    /// One key and what it is to be.
    Entry {
        /// Such as vars/job/api.
        namespace: String,
        /// Such as db_name.
        key: String,
        /// Not blank. Blanks around it are taken off, but not from secrets.
        value: String,
    }
}

body! {
    /// Which keys to list.
    Which {
        /// vars/job/<own job> or secrets/job/<own job>; both when it is left out or blank.
        namespace: Option<String>,
    }
}

body! {
    /// Names of keys.
    Listed {
        /// The keys of each namespace, sorted.
        namespaces: BTreeMap<String, Vec<String>>,
    }
}

body! {
    /// A hook of another job that demands this one.
    Demanded {
        /// Whose hook it is.
        job: String,
        /// Its name.
        hook: String,
        /// Its name, as older hooks know the field.
        command: String,
        /// The config of its demand, as its manifest has it.
        demand_config: Map<String, Value>,
    }
}

body! {
    /// What to wait for.
    Acquire {
        /// The semaphore; there is one of a name for each job and event.
        name: String,
        /// How many may hold it: 1 when left out, at most 64. The first to ask decides.
        capacity: Option<i64>,
        /// How long to wait: 600 when left out, at most 3600.
        timeout_seconds: Option<i64>,
    }
}

body! {
    /// A semaphore that is held now.
    Acquired {
        /// Its name.
        name: String,
        /// Who holds it: the caller.
        allocation_id: String,
        /// How many may hold it.
        capacity: i64,
        /// Always true.
        acquired: bool,
    }
}

body! {
    /// Which semaphore.
    Named {
        /// Its name.
        name: String,
    }
}

body! {
    /// How a semaphore stands.
    Status {
        /// Its name.
        name: String,
        /// How many may hold it.
        capacity: i64,
        /// The allocations that hold it.
        holders: Vec<String>,
        /// How many wait for it.
        waiting: i64,
        /// How many more may hold it.
        available: i64,
    }
}

body! {
    /// A make target to run in the job's directory on a worker.
    Make {
        /// The target.
        target: String,
        /// How long it may take: 300 when left out, at most 3600.
        timeout_seconds: Option<i64>,
        /// Another worker that has an allocation of the same job; the allocation's own when left out.
        host: Option<String>,
    }
}

body! {
    /// A script for the shell of a worker.
    Script {
        /// What `sh` is given.
        script: String,
        /// How long it may take: 300 when left out, at most 3600.
        timeout_seconds: Option<i64>,
        /// Another worker that has an allocation of the same job; the allocation's own when left out.
        host: Option<String>,
    }
}

body! {
    /// What came of it. That the target or script failed is no failure of the request.
    Done {
        /// The exit code; left out when it was ended.
        exit: Option<i64>,
        /// What it printed.
        stdout: String,
        /// What it printed to standard error.
        stderr: String,
        /// It took too long and was ended.
        timed_out: bool,
    }
}
