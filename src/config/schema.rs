pub fn schema() -> serde_json::Value { todo!() }
