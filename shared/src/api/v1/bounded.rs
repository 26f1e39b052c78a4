//! Lists of messages that may not be longer than what is said: a short JSON text can stand for a list that
//! is many times as long in memory.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};

/// For `#[serde(deserialize_with = "bounded::list::<N, _, _>")]`: at most `N` elements.
pub fn list<'de, const N: usize, T, D>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    struct Bounded<const N: usize, T>(PhantomData<T>);

    impl<'de, const N: usize, T: Deserialize<'de>> Visitor<'de> for Bounded<N, T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a list of at most {N}")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Vec<T>, A::Error> {
            let mut list = Vec::new();
            while let Some(element) = elements.next_element()? {
                if list.len() == N {
                    return Err(A::Error::custom(format_args!("a list is longer than {N}")));
                }
                list.push(element);
            }
            Ok(list)
        }
    }

    deserializer.deserialize_seq(Bounded::<N, T>(PhantomData))
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    #[derive(Debug, PartialEq, Deserialize)]
    struct Message {
        #[serde(default, deserialize_with = "super::list::<3, _, _>")]
        words: Vec<String>,
    }

    #[test]
    fn what_is_longer_is_refused_and_what_is_missing_is_empty() {
        let read = |text: &str| serde_json::from_str::<Message>(text).map(|message| message.words.len());
        assert_eq!(read("{}").unwrap(), 0);
        assert_eq!(read(r#"{"words":["a","b","c"]}"#).unwrap(), 3);
        let error = read(r#"{"words":["a","b","c","d"]}"#).unwrap_err().to_string();
        assert!(error.starts_with("a list is longer than 3"), "{error}");
        assert!(read(r#"{"words":"a"}"#).is_err());
    }
}
