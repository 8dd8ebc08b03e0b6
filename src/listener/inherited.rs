//! Listening sockets that another process bound: the one that this one replaces, or the service
//! manager.
//!
//! A socket of the old process is found by what it was for and the address that it had in the file,
//! because that is what stays the same (port 0 is another port each time); then by the address that
//! it is bound to. The service manager's is found by its address, or by a name that an operator has given
//! it (`FileDescriptorName=`), which may then be bound to whatever the unit says.

use socket2::Socket;

use crate::config::model::BindAddress;
use crate::util::unix_socket::Identity;

/// What a listening socket is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    Listener,
    Admin,
}

/// One of them.
#[derive(Debug)]
pub struct Handed {
    /// `None` where nobody gave one.
    pub name: Option<String>,
    /// What the old process had it for, and its address in the old one's file.
    pub configured: Option<(Purpose, BindAddress)>,
    pub bound: BindAddress,
    /// Of a unix socket's file that is ours from now on.
    pub file: Option<Identity>,
    pub socket: Socket,
}

/// Those that nobody has asked for yet.
#[derive(Debug, Default)]
pub struct Inherited {
    waiting: Vec<(usize, Handed)>,
    taken: Vec<usize>,
}

impl Inherited {
    pub fn new(handed: Vec<Handed>) -> Self {
        Inherited {
            waiting: handed.into_iter().enumerate().collect(),
            taken: Vec::new(),
        }
    }

    /// Every socket for a listener with this name at this configured address.
    pub fn take(&mut self, purpose: Purpose, name: &str, address: &BindAddress) -> Vec<Handed> {
        let before = (purpose, address.clone());
        let tests: [&dyn Fn(&Handed) -> bool; 3] = [
            &|handed| handed.configured.as_ref() == Some(&before),
            &|handed| handed.bound == *address,
            &|handed| handed.configured.is_none() && handed.name.as_deref() == Some(name),
        ];
        for test in tests {
            let (mine, others): (Vec<_>, Vec<_>) =
                self.waiting.drain(..).partition(|(_, handed)| test(handed));
            self.waiting = others;
            if !mine.is_empty() {
                self.taken.extend(mine.iter().map(|(index, _)| *index));
                return mine.into_iter().map(|(_, handed)| handed).collect();
            }
        }
        Vec::new()
    }

    /// Where those are bound that nobody has asked for.
    pub fn addresses(&self) -> impl Iterator<Item = &BindAddress> {
        self.waiting.iter().map(|(_, handed)| &handed.bound)
    }

    /// Closes what nobody has asked for, and tells which of the sockets given to
    /// [`Inherited::new`] are in use.
    pub fn finish(self) -> Vec<usize> {
        self.taken
    }
}

#[cfg(test)]
mod tests {
    use socket2::{Domain, Type};

    use super::*;

    fn address(text: &str) -> BindAddress {
        BindAddress::Tcp(text.parse().expect("an address"))
    }

    fn handed(name: Option<&str>, configured: Option<&str>, bound: &str) -> Handed {
        Handed {
            name: name.map(str::to_owned),
            configured: configured.map(|text| (Purpose::Listener, address(text))),
            bound: address(bound),
            file: None,
            socket: Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket"),
        }
    }

    #[test]
    fn the_configured_address_finds_it_before_the_bound_one() {
        let mut inherited = Inherited::new(vec![
            handed(None, Some("127.0.0.1:0"), "127.0.0.1:4000"),
            handed(None, Some("127.0.0.1:0"), "127.0.0.1:4000"),
            handed(None, Some("127.0.0.1:4000"), "127.0.0.1:5000"),
        ]);
        let both = inherited.take(Purpose::Listener, "web", &address("127.0.0.1:0"));
        assert_eq!(both.len(), 2, "every worker's");
        let one = inherited.take(Purpose::Listener, "web", &address("127.0.0.1:4000"));
        assert_eq!(one[0].bound, address("127.0.0.1:5000"));
        assert!(
            inherited
                .take(Purpose::Listener, "web", &address("127.0.0.1:4000"))
                .is_empty()
        );
        assert_eq!(inherited.finish(), [0, 1, 2]);
    }

    #[test]
    fn a_listener_and_the_admin_listener_may_have_the_same_address_in_the_file() {
        let mut admin = handed(None, None, "127.0.0.1:5000");
        admin.configured = Some((Purpose::Admin, address("127.0.0.1:0")));
        let web = handed(None, Some("127.0.0.1:0"), "127.0.0.1:4000");
        let mut inherited = Inherited::new(vec![admin, web]);
        let found = inherited.take(Purpose::Admin, "admin", &address("127.0.0.1:0"));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].bound, address("127.0.0.1:5000"));
        let found = inherited.take(Purpose::Listener, "web", &address("127.0.0.1:0"));
        assert_eq!(found[0].bound, address("127.0.0.1:4000"));
    }

    #[test]
    fn a_port_that_was_chosen_is_found_when_the_file_names_it() {
        let old = handed(None, Some("127.0.0.1:0"), "127.0.0.1:4000");
        let mut inherited = Inherited::new(vec![old]);
        assert_eq!(
            inherited
                .take(Purpose::Listener, "web", &address("127.0.0.1:4000"))
                .len(),
            1
        );
    }

    #[test]
    fn only_the_service_managers_names_count() {
        let mut inherited = Inherited::new(vec![
            handed(Some("web"), Some("127.0.0.1:1"), "127.0.0.1:1"),
            handed(Some("web"), None, "127.0.0.1:2"),
        ]);
        let found = inherited.take(Purpose::Listener, "web", &address("127.0.0.1:3"));
        assert_eq!(found[0].bound, address("127.0.0.1:2"));
        assert!(
            inherited
                .take(Purpose::Listener, "web", &address("127.0.0.1:3"))
                .is_empty()
        );
        let left: Vec<_> = inherited.addresses().collect();
        assert_eq!(left, [&address("127.0.0.1:1")]);
        assert_eq!(inherited.finish(), [1]);
    }
}
