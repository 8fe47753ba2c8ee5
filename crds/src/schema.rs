//! What the derived schemas lack.

use schemars::{Schema, SchemaGenerator, json_schema};

/// The conditions of a status: a list that server-side apply merges by `type`, as `metav1.Condition` asks.
pub(crate) fn conditions(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 16,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "required": ["type", "status", "lastTransitionTime", "reason", "message"],
            "properties": {
                "type": { "type": "string", "maxLength": 316, "description": "What the condition tells of, in CamelCase." },
                "status": { "type": "string", "enum": ["True", "False", "Unknown"], "description": "Whether it holds." },
                "observedGeneration": { "type": "integer", "format": "int64", "minimum": 0, "description": "The generation of the spec that it was observed for." },
                "lastTransitionTime": { "type": "string", "format": "date-time", "description": "When the status last changed." },
                "reason": { "type": "string", "minLength": 1, "maxLength": 1024, "description": "Why, as one CamelCase word." },
                "message": { "type": "string", "maxLength": 32768, "description": "Why, for a person, with what to do about it." }
            }
        }
    })
}
