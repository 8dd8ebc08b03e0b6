//! By what a sticky cookie names a server: a tag of 64 bits.
//!
//! A tag is a keyed hash (HMAC-SHA-256, cut) of the upstream's name and the server's address (of a
//! name, the one that it leads to), and of nothing else: every instance with the same key gives a
//! server the same tag, before and after a reload or a restart, so that nothing has to be
//! remembered or shared. It says nothing of the address to somebody who does not have the key.
//! Without a configured one the key is in this file: then who suspects an address can see whether
//! he is right, and no more, since a tag that no server of the upstream has leads nowhere.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::hmac;

use crate::config::model;
use crate::upstream::server::Server;
use crate::upstream::server_set::{Candidates, Member, Obstacle, ServerSet};
use crate::upstream::upstream::Upstream;

/// Where none is configured; a change of it moves all clients once.
const COMMON_KEY: &[u8] = b"evenkeel sticky 1";

/// What a cookie says of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tag(u64);

/// Digits of a tag.
const DIGITS: usize = 16;

impl Tag {
    /// As a cookie has it: lower case hexadecimal digits, nothing else.
    pub fn parse(text: &[u8]) -> Option<Tag> {
        parse_hex(text.try_into().ok()?).map(Tag)
    }

    fn of(key: &hmac::Key, upstream: &str, address: &str) -> Tag {
        let mut context = hmac::Context::with_key(key);
        context.update(upstream.as_bytes());
        context.update(&[0]);
        context.update(address.as_bytes());
        let hash = context.sign();
        let (first, _) = hash.as_ref().split_first_chunk().unwrap_or((&[0; 8], &[]));
        Tag(u64::from_be_bytes(*first))
    }
}

fn parse_hex(digits: &[u8; DIGITS]) -> Option<u64> {
    digits.iter().try_fold(0, |value, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(value << 4 | u64::from(digit))
    })
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The tags of the servers of a set.
#[derive(Debug)]
pub(super) struct Tags {
    rules: Arc<model::Sticky>,
    /// By tag, with the server's position.
    by_tag: Box<[(Tag, u32)]>,
}

impl Tags {
    /// `None` where nothing sticks. `before` are those of the same servers in the same order.
    pub fn new(
        config: &model::Upstream,
        servers: &[Arc<Server>],
        before: Option<&Arc<Tags>>,
    ) -> Option<Arc<Tags>> {
        let rules = config.sticky.as_ref()?;
        if let Some(before) = before.filter(|before| before.rules.key == rules.key) {
            return Some(before.clone());
        }
        let key = match rules.key.as_str() {
            "" => COMMON_KEY,
            key => key.as_bytes(),
        };
        let key = hmac::Key::new(hmac::HMAC_SHA256, key);
        let mut by_tag: Box<[_]> = (0..)
            .zip(servers)
            .map(|(index, server)| (Tag::of(&key, &config.name, server.label()), index))
            .collect();
        by_tag.sort_unstable();
        Some(Arc::new(Tags {
            rules: rules.clone(),
            by_tag,
        }))
    }

    fn find(&self, tag: Tag) -> Option<usize> {
        let at = self.by_tag.binary_search_by_key(&tag, |(tag, _)| *tag);
        Some(self.by_tag[at.ok()?].1 as usize)
    }

    pub fn of(&self, index: usize) -> Option<Tag> {
        let mut tags = self.by_tag.iter();
        tags.find(|(_, at)| *at as usize == index)
            .map(|(tag, _)| *tag)
    }
}

impl ServerSet {
    /// The server that a tag names.
    fn tagged(&self, tag: Tag) -> Option<usize> {
        self.tags()?.find(tag)
    }
}

impl Candidates<'_> {
    /// The server that `tag` names, if it takes requests of those that stick to it: also with
    /// weight 0, never while it drains.
    #[cold]
    pub fn stuck(&self, tag: Tag) -> Option<usize> {
        let index = self.set.tagged(tag)?;
        self.obstacle_to_sticky(index).is_none().then_some(index)
    }

    /// As [`Candidates::obstacle`], for a request that names the server.
    pub fn obstacle_to_sticky(&self, index: usize) -> Option<Obstacle> {
        match self.set.plan().sticky.get(index) {
            Some(true) => self.passing_obstacle(index),
            _ => self.obstacle(index),
        }
    }
}

impl Upstream {
    /// Whether `tag` names one of its servers now.
    pub fn knows(&self, tag: Tag) -> bool {
        self.with_set(|set| set.tagged(tag)).is_some()
    }

    /// Whether `tag` is the one of `server`.
    pub fn is_tag_of(&self, tag: Tag, server: &Arc<Server>) -> bool {
        let found = |set: &ServerSet| {
            let member: &Member = set.members().get(set.tagged(tag)?)?;
            Some(Arc::ptr_eq(&member.server, server))
        };
        self.with_set(found) == Some(true)
    }

    /// The tag of one of its servers; `None` where nothing sticks, or the server has gone.
    pub fn tag_of(&self, server: &Arc<Server>) -> Option<Tag> {
        self.with_set(|set| {
            let mut members = set.members().iter();
            let index = members.position(|member| Arc::ptr_eq(&member.server, server))?;
            set.tags()?.of(index)
        })
    }

    /// Of the upstream of this name now.
    fn with_set<T>(&self, look: impl Fn(&ServerSet) -> Option<T>) -> Option<T> {
        if self.is_replaced()
            && let Some(current) = &*self.common().current()
        {
            return look(&current.load_set());
        }
        look(&self.load_set())
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::config::model::{Balance, HashKey};
    use crate::upstream::health::verdict::Standing;
    use crate::upstream::testing::{
        config, fail, health, pick, pick_stuck, port, publish, registry, verdict,
    };

    fn sticky(weights: &[(u16, u32)], key: &str) -> model::Upstream {
        model::Upstream {
            sticky: Some(Arc::new(model::Sticky {
                cookie: "ek".to_owned(),
                ttl: None,
                path: "/".to_owned(),
                secure: None,
                http_only: true,
                same_site: None,
                key: key.to_owned(),
            })),
            ..config(weights)
        }
    }

    fn tags(upstream: &Upstream) -> Vec<Tag> {
        let servers = upstream.servers();
        let tags = servers.iter().map(|server| upstream.tag_of(server));
        tags.map(Option::unwrap).collect()
    }

    #[test]
    fn a_tag_is_sixteen_digits_and_nothing_else() {
        let tag = Tag(0x0123_4567_89ab_cdef);
        assert_eq!(Tag::parse(tag.to_string().as_bytes()), Some(tag));
        for bad in [
            &b""[..],
            b"0123456789abcde",
            b"0123456789abcdef0",
            b"0123456789ABCDEF",
            b"0123456789abcde\xff",
            b"+123456789abcdef",
        ] {
            assert_eq!(Tag::parse(bad), None);
        }
    }

    #[tokio::test]
    async fn a_tag_depends_on_upstream_address_and_key_and_on_nothing_else() {
        let tags_of = |config| tags(&publish(&registry(), config));
        let first = tags_of(sticky(&[(1, 1), (2, 1)], ""));
        let other_order = tags_of(sticky(&[(2, 5), (3, 1), (1, 0)], ""));
        assert_eq!([first[0], first[1]], [other_order[2], other_order[0]]);
        let mut renamed = sticky(&[(1, 1)], "");
        renamed.name = "other".into();
        let others = [tags_of(sticky(&[(1, 1)], "secret")), tags_of(renamed)];
        assert!(others.iter().all(|tags| tags[0] != first[0]));
        // Cookies that are out there name the same servers after an update of the program.
        let hex = first[0].to_string();
        assert_eq!(hex, "bc81a2378b8d5f0f");
    }

    #[tokio::test]
    async fn every_policy_lets_the_tag_decide() {
        let policies = [
            Balance::Random,
            Balance::RoundRobin,
            Balance::SmoothWeighted,
            Balance::LeastRequests,
            Balance::PeakEwma,
            Balance::Hash(HashKey::ClientIp),
        ];
        for balance in policies {
            let config = model::Upstream {
                balance: balance.clone(),
                ..sticky(&[(1, 1), (2, 1), (3, 1)], "")
            };
            let upstream = publish(&registry(), config);
            for (tag, expected) in tags(&upstream).into_iter().zip(1..) {
                for _ in 0..5 {
                    let lease = pick_stuck(&upstream, tag, &[]).unwrap();
                    assert_eq!(port(lease.server()), expected, "{balance:?}");
                }
            }
            let unknown = pick_stuck(&upstream, Tag(7), &[]);
            assert!(unknown.is_ok(), "{balance:?}");
        }
    }

    #[tokio::test]
    async fn a_stuck_request_is_no_turn_of_the_order() {
        let upstream = publish(&registry(), sticky(&[(1, 1), (2, 1)], ""));
        let tag = tags(&upstream)[1];
        let ports: Vec<u16> = (0..4)
            .map(|_| {
                drop(pick_stuck(&upstream, tag, &[]).unwrap());
                port(pick(&upstream).unwrap().server())
            })
            .collect();
        assert_eq!(ports, [1, 2, 1, 2]);
    }

    #[tokio::test]
    async fn weight_zero_serves_who_sticks_and_draining_nobody() {
        let mut config = sticky(&[(1, 0), (2, 1), (3, 1)], "");
        config.servers[2].drain = true;
        let upstream = publish(&registry(), config);
        let ports: Vec<u16> = tags(&upstream)
            .into_iter()
            .map(|tag| port(pick_stuck(&upstream, tag, &[]).unwrap().server()))
            .collect();
        assert_eq!(ports, [1, 2, 2]);
        assert_eq!(port(pick(&upstream).unwrap().server()), 2);
    }

    #[tokio::test]
    async fn who_cannot_stay_falls_over() {
        let registry = registry();
        let mut config = model::Upstream {
            health: Some(health()),
            ..sticky(&[(1, 1), (2, 1), (3, 1), (4, 0), (5, 1)], "")
        };
        config.servers[2].max_requests = 1;
        config.servers[4].backup = true;
        let upstream = publish(&registry, config);
        for server in upstream.servers().iter() {
            verdict(server, Standing::Healthy);
        }
        let tags = tags(&upstream);
        let at = |tag| port(pick_stuck(&upstream, tag, &[]).unwrap().server());
        registry.look(Instant::now());
        assert_eq!((at(tags[0]), at(tags[3])), (1, 4));
        assert_ne!(at(tags[4]), 5, "a backup is left when others are back");
        let full = pick_stuck(&upstream, tags[2], &[]).unwrap();
        assert_ne!(at(tags[2]), 3, "full");
        drop(full);
        assert_eq!(at(tags[2]), 3);
        verdict(&upstream.servers()[0], Standing::Unhealthy);
        verdict(&upstream.servers()[3], Standing::Unhealthy);
        registry.look(Instant::now());
        assert!(at(tags[0]) != 1 && at(tags[3]) != 4, "unhealthy");
        verdict(&upstream.servers()[0], Standing::Healthy);
        fail(&upstream.servers()[0], upstream.config(), 5);
        assert_ne!(at(tags[0]), 1, "ejected, before the order knows it");
        let tried = [upstream.servers()[1].id()];
        let retry = pick_stuck(&upstream, tags[1], &tried).unwrap();
        assert_ne!(port(retry.server()), 2, "a retry goes elsewhere");
    }

    #[tokio::test]
    async fn a_pick_by_tag_never_allocates() {
        let upstream = publish(&registry(), sticky(&[(1, 1), (2, 1)], ""));
        let tag = tags(&upstream)[1];
        let picks = || {
            for _ in 0..10 {
                assert!(upstream.knows(tag));
                let lease = pick_stuck(&upstream, tag, &[]).unwrap();
                assert!(upstream.is_tag_of(tag, lease.server()));
            }
        };
        picks();
        let counted = allocation_counter::measure(picks);
        assert_eq!(counted.count_total, 0);
    }

    #[tokio::test]
    async fn tags_survive_a_reload_that_changes_others() {
        let registry = registry();
        let before = publish(&registry, sticky(&[(1, 1), (2, 1)], ""));
        let (one, two) = (tags(&before)[0], tags(&before)[1]);
        let after = publish(&registry, sticky(&[(3, 1), (2, 1)], ""));
        assert_eq!(port(pick_stuck(&after, two, &[]).unwrap().server()), 2);
        assert!(!after.knows(one));
        // Also for a request that began before.
        assert!(!before.knows(one) && before.knows(two));
        let plain = publish(&registry, config(&[(3, 1), (2, 1)]));
        assert!(!plain.knows(two) && plain.tag_of(&plain.servers()[0]).is_none());
    }
}
