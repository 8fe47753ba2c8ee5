//! A caller, as far as it matters: which namespaces' models are its own.

use std::sync::Arc;

/// What stands for every namespace, in what a model allows and in what a token is for.
pub const EVERY: &str = "*";

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller(Own);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Own {
    Every,
    These(Arc<[String]>),
}

impl Caller {
    /// One that may use everything.
    pub const fn anyone() -> Self {
        Self(Own::Every)
    }

    /// One whose own these namespaces are; `*` is every one.
    pub fn of(namespaces: impl IntoIterator<Item = String>) -> Self {
        let these: Arc<[String]> = namespaces.into_iter().collect();
        if these.iter().any(|namespace| namespace == EVERY) {
            Self::anyone()
        } else {
            Self(Own::These(these))
        }
    }

    /// Whether it has any namespace.
    pub fn is_nobody(&self) -> bool {
        matches!(&self.0, Own::These(these) if these.is_empty())
    }

    /// Whether a namespace is its own.
    pub fn owns(&self, namespace: &str) -> bool {
        match &self.0 {
            Own::Every => true,
            Own::These(these) => these.iter().any(|own| own == namespace),
        }
    }

    /// Whether it may use a model of `namespace` that these namespaces may use, too.
    pub fn may_use(&self, namespace: &str, allowed: &[String]) -> bool {
        self.owns(namespace) || allowed.iter().any(|allowed| allowed == EVERY || self.owns(allowed))
    }
}

/// `[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?`, as namespaces are named.
pub fn is_namespace(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
        && !text.starts_with('-')
        && !text.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(namespaces: &[&str]) -> Caller {
        Caller::of(namespaces.iter().map(|namespace| (*namespace).to_owned()))
    }

    #[test]
    fn a_caller_may_use_its_own_models_and_those_that_name_it() {
        let allowed = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        for (caller, namespace, names, may) in [
            (of(&["a"]), "a", &[][..], true),
            (of(&["a"]), "b", &[], false),
            (of(&["a"]), "b", &["a"], true),
            (of(&["a"]), "b", &["c", "ab", ""], false),
            (of(&["a"]), "b", &["*"], true),
            (of(&["a", "b"]), "b", &[], true),
            (of(&["a", "b"]), "c", &["b"], true),
            (of(&["*"]), "c", &[], true),
            (of(&[]), "a", &["b"], false),
            (Caller::anyone(), "a", &[], true),
        ] {
            assert_eq!(caller.may_use(namespace, &allowed(names)), may, "{caller:?} {namespace} {names:?}");
        }
        // A namespace cannot be called `*`; what names it is no wildcard of the caller's.
        assert!(!of(&["a"]).owns("*"));
    }
}
