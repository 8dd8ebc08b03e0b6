pub fn show(_loaded: &super::Loaded, _effective: bool) -> String { todo!() }
