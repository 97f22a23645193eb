//! The kernel's types, as BTF encodes them (kernel: Documentation/bpf/btf.rst, include/uapi/linux/btf.h).
//!
//! A kernel has 150,000 types, and the observer asks for some sixty at each start. So they stay the bytes that they
//! are: [`Types::parse`] finds where each begins and which name it has, and a type is decoded when it is asked for.

#![forbid(unsafe_code)]

use std::collections::HashMap;

/// Magic number of BTF in this machine's byte order: the running kernel's has no other.
const MAGIC: u16 = 0xeb9f;
const VERSION: u8 = 1;
/// The words of `struct btf_type`: name, info, and size or type.
const HEAD: usize = 12;
const WORD: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("the header is not that of BTF, version {VERSION}, in this machine's byte order")]
    Header,
    #[error("a section lies outside of the {0} bytes")]
    Section(usize),
    #[error("type {0} is cut short")]
    Cut(u32),
    #[error("type {id} is of kind {kind}, which this program does not know")]
    Kind { id: u32, kind: u32 },
}

/// What a type is. Kinds that nothing here asks about are [`Kind::Other`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    Int,
    Pointer,
    Array,
    Struct,
    Union,
    Enum,
    Typedef,
    Volatile,
    Const,
    Restrict,
    Func,
    FuncProto,
    TypeTag,
    Other,
}

/// One type, still encoded.
#[derive(Clone, Copy, Debug)]
pub struct Type<'a> {
    pub kind: Kind,
    name: u32,
    /// Bit offsets of members hold the size of a bit field too.
    bit_fields: bool,
    size_or_type: u32,
    rest: &'a [u8],
}

/// A member of a structure or union.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member<'a> {
    /// Empty for an anonymous structure or union.
    pub name: &'a str,
    pub ty: u32,
    pub bit_offset: u32,
}

pub struct Types<'a> {
    strings: &'a [u8],
    types: &'a [u8],
    /// Where each type begins in `types`; that of type 1 is the first: type 0 is `void`.
    begins: Vec<u32>,
    named: HashMap<(Kind, &'a [u8]), u32>,
}

impl<'a> Types<'a> {
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let head = |at: usize| word(bytes, at).ok_or(Malformed::Header);
        let section = |offset: u32, length: u32| {
            let begin = (head(4)? as usize).checked_add(offset as usize);
            let end = begin.and_then(|begin| begin.checked_add(length as usize));
            let range = begin.zip(end).and_then(|(begin, end)| bytes.get(begin..end));
            range.ok_or(Malformed::Section(bytes.len()))
        };
        if bytes.get(..2) != Some(&MAGIC.to_ne_bytes()) || bytes.get(2) != Some(&VERSION) {
            return Err(Malformed::Header);
        }
        let types = section(head(8)?, head(12)?)?;
        let strings = section(head(16)?, head(20)?)?;
        let (mut begins, mut named) = (Vec::new(), HashMap::new());
        let mut at = 0;
        while at < types.len() {
            begins.push(at as u32);
            let id = begins.len() as u32;
            let (ty, length) = decode(types, at, id)?;
            at += length;
            if matches!(ty.kind, Kind::Struct | Kind::Enum | Kind::Typedef | Kind::Func)
                && let Some(name) = string(strings, ty.name)
            {
                named.entry((ty.kind, name)).or_insert(id);
            }
        }
        Ok(Self { strings, types, begins, named })
    }

    /// The first structure, enumeration, typedef or function of this name.
    pub fn find(&self, kind: Kind, name: &str) -> Option<Type<'a>> {
        self.ty(*self.named.get(&(kind, name.as_bytes()))?)
    }

    /// `None` for `void`, and for a number that no type has.
    pub fn ty(&self, id: u32) -> Option<Type<'a>> {
        let begin = *self.begins.get(id.checked_sub(1)? as usize)?;
        decode(self.types, begin as usize, id).ok().map(|(ty, _)| ty)
    }

    pub fn name(&self, ty: Type<'a>) -> &'a str {
        self.string(ty.name)
    }

    /// The type itself, without typedefs and qualifiers. They end: a chain of more than `MOST` is damage.
    pub fn peel(&self, id: u32) -> Option<Type<'a>> {
        const MOST: usize = 32;
        let mut ty = self.ty(id)?;
        for _ in 0..MOST {
            match ty.kind {
                Kind::Typedef | Kind::Const | Kind::Volatile | Kind::Restrict | Kind::TypeTag => {
                    ty = self.ty(ty.behind()?)?;
                }
                _ => return Some(ty),
            }
        }
        None
    }

    /// Of a structure or union, in order; of anything else none.
    pub fn members(&self, ty: Type<'a>) -> impl Iterator<Item = Member<'a>> {
        let entries = if matches!(ty.kind, Kind::Struct | Kind::Union) { ty.rest } else { &[] };
        entries.chunks_exact(3 * WORD).filter_map(move |entry| {
            let offset = word(entry, 2 * WORD)?;
            let bit_offset = if ty.bit_fields { offset & 0x00ff_ffff } else { offset };
            Some(Member { name: self.string(word(entry, 0)?), ty: word(entry, WORD)?, bit_offset })
        })
    }

    /// Name and value of each enumerator, as the 32 bits that they are.
    pub fn enumerators(&self, ty: Type<'a>) -> impl Iterator<Item = (&'a str, u32)> {
        let entries = if ty.kind == Kind::Enum { ty.rest } else { &[] };
        let pairs = entries.chunks_exact(2 * WORD);
        pairs.filter_map(|entry| Some((self.string(word(entry, 0)?), word(entry, WORD)?)))
    }

    /// The type of each parameter of a function's prototype.
    pub fn parameters(&self, ty: Type<'a>) -> impl Iterator<Item = u32> {
        let entries = if ty.kind == Kind::FuncProto { ty.rest } else { &[] };
        entries.chunks_exact(2 * WORD).filter_map(|entry| word(entry, WORD))
    }

    fn string(&self, at: u32) -> &'a str {
        string(self.strings, at).and_then(|name| std::str::from_utf8(name).ok()).unwrap_or_default()
    }
}

impl Type<'_> {
    /// Bytes; of a structure or union.
    pub fn size(&self) -> u32 {
        self.size_or_type
    }

    /// The number of the type that a pointer, typedef, qualifier or function names, or that an array is of.
    pub fn behind(&self) -> Option<u32> {
        match self.kind {
            Kind::Array => word(self.rest, 0),
            Kind::Int | Kind::Struct | Kind::Union | Kind::Enum | Kind::Other => None,
            _ => Some(self.size_or_type),
        }
    }
}

/// The type, and how long it is.
fn decode(types: &[u8], at: usize, id: u32) -> Result<(Type<'_>, usize), Malformed> {
    let cut = Malformed::Cut(id);
    let read = |index: usize| word(types, at + index * WORD).ok_or(cut);
    let (name, info, size_or_type) = (read(0)?, read(1)?, read(2)?);
    // Kernels before the wider fields have zeros in their further bits.
    let entries = (info & 0x00ff_ffff) as usize;
    let (kind, words) = match (info >> 24) & 0x7f {
        1 => (Kind::Int, 1),
        2 => (Kind::Pointer, 0),
        3 => (Kind::Array, 3),
        4 => (Kind::Struct, 3 * entries),
        5 => (Kind::Union, 3 * entries),
        6 => (Kind::Enum, 2 * entries),
        7 => (Kind::Other, 0), // a forward declaration
        8 => (Kind::Typedef, 0),
        9 => (Kind::Volatile, 0),
        10 => (Kind::Const, 0),
        11 => (Kind::Restrict, 0),
        12 => (Kind::Func, 0),
        13 => (Kind::FuncProto, 2 * entries),
        14 => (Kind::Other, 1),           // a variable
        15 => (Kind::Other, 3 * entries), // a section of variables
        16 => (Kind::Other, 0),           // a floating-point number
        17 => (Kind::Other, 1),           // a tag of a declaration
        18 => (Kind::TypeTag, 0),
        19 => (Kind::Other, 3 * entries), // an enumeration of 64 bits
        kind => return Err(Malformed::Kind { id, kind }),
    };
    let rest = at + HEAD;
    let end = rest + words * WORD;
    let rest = types.get(rest..end).ok_or(cut)?;
    Ok((Type { kind, name, bit_fields: info >> 31 == 1, size_or_type, rest }, end - at))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at.checked_add(WORD)?)?.try_into().ok().map(u32::from_ne_bytes)
}

fn string(strings: &[u8], at: u32) -> Option<&[u8]> {
    let rest = strings.get(at as usize..)?;
    std::ffi::CStr::from_bytes_until_nul(rest).ok().map(std::ffi::CStr::to_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `struct page { union { int a; unsigned flags:4 at bit 8 }; }`, `typedef const struct page *ref`,
    /// `enum zone { DMA = 0, HIGH = -1 }`, `int read(ref)`: what the kernel's own types are made of.
    fn written() -> Vec<u8> {
        let strings = b"\0int\0page\0a\0flags\0ref\0zone\0DMA\0HIGH\0read\0";
        let at = |name: &[u8]| {
            let name = [b"\0", name, b"\0"].concat();
            let found = strings.windows(name.len()).position(|window| window == name);
            found.map_or(0, |at| at as u32 + 1)
        };
        let info = |kind: u32, entries: u32| kind << 24 | entries;
        let words: Vec<u32> = [
            &[at(b"int"), info(1, 0), 4, 32][..], // 1
            &[0, info(5, 2) | 1 << 31, 4, at(b"a"), 1, 0, at(b"flags"), 1, 4 << 24 | 8], // 2: a union of bit fields
            &[at(b"page"), info(4, 1), 8, 0, 2, 32],                                     // 3
            &[0, info(10, 0), 3],                                                        // 4: const
            &[0, info(2, 0), 4],                                                         // 5: a pointer
            &[at(b"ref"), info(8, 0), 5],                                                // 6: a typedef
            &[at(b"zone"), info(6, 2), 4, at(b"DMA"), 0, at(b"HIGH"), u32::MAX],         // 7
            &[0, info(13, 1), 1, 0, 6],                                                  // 8: a prototype
            &[at(b"read"), info(12, 0), 8],                                              // 9
            &[0, info(3, 0), 0, 1, 1, 5],                                                // 10: int[5]
        ]
        .concat();
        let types: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let head = [24, 0, types.len() as u32, types.len() as u32, strings.len() as u32];
        let mut bytes = [&MAGIC.to_ne_bytes()[..], &[VERSION, 0]].concat();
        bytes.extend(head.iter().flat_map(|word| word.to_ne_bytes()));
        bytes.extend(types);
        bytes.extend_from_slice(strings);
        bytes
    }

    #[test]
    fn a_type_is_found_by_kind_and_name() {
        let bytes = written();
        let types = Types::parse(&bytes).unwrap();
        let page = types.find(Kind::Struct, "page").unwrap();
        assert_eq!((types.name(page), page.size()), ("page", 8));
        assert!(types.find(Kind::Func, "page").is_none(), "no function of that name");
        assert!(types.find(Kind::Struct, "pag").is_none(), "part of a name");
        let inner = types.members(page).next().unwrap();
        assert_eq!(inner, Member { name: "", ty: 2, bit_offset: 32 });
        let inner: Vec<_> =
            types.members(types.ty(inner.ty).unwrap()).map(|m| (m.name, m.bit_offset)).collect();
        assert_eq!(inner, [("a", 0), ("flags", 8)], "a bit field's size is no part of its place");
    }

    #[test]
    fn what_is_behind_names_and_qualifiers() {
        let bytes = written();
        let types = Types::parse(&bytes).unwrap();
        let pointer = types.peel(6).unwrap();
        assert_eq!(pointer.kind, Kind::Pointer);
        assert_eq!(pointer.behind(), Some(4));
        assert_eq!(types.peel(4).map(|ty| types.name(ty)), Some("page"));
        let read = types.ty(types.find(Kind::Func, "read").unwrap().behind().unwrap()).unwrap();
        assert_eq!(types.parameters(read).collect::<Vec<_>>(), [6]);
        let zone = types.find(Kind::Enum, "zone").unwrap();
        assert_eq!(types.enumerators(zone).collect::<Vec<_>>(), [("DMA", 0), ("HIGH", u32::MAX)]);
        assert_eq!(types.ty(10).unwrap().behind(), Some(1), "what an array is of");
        assert!(types.ty(0).is_none() && types.ty(11).is_none());
    }

    #[test]
    fn a_chain_without_an_end_is_damage() {
        let mut bytes = written();
        let qualifier = 24 + 4 * (4 + 9 + 6); // type 4 qualifies itself
        bytes[qualifier + 8..qualifier + 12].copy_from_slice(&4_u32.to_ne_bytes());
        assert!(Types::parse(&bytes).unwrap().peel(4).is_none());
    }

    #[test]
    fn damage_is_named_and_nothing_panics() {
        let bytes = written();
        assert_eq!(Types::parse(b"").err(), Some(Malformed::Header));
        assert_eq!(Types::parse(&bytes[1..]).err(), Some(Malformed::Header));
        let mut newer = bytes.clone();
        newer[24 + 7] = 30;
        assert_eq!(Types::parse(&newer).err(), Some(Malformed::Kind { id: 1, kind: 30 }));
        for end in 0..bytes.len() {
            assert!(Types::parse(&bytes[..end]).is_err(), "cut after {end} bytes");
        }
        // Each byte by each of its bits: whatever it says then, it is read within bounds.
        for (index, bit) in (0..bytes.len()).flat_map(|index| (0..8).map(move |bit| (index, bit))) {
            let mut flipped = bytes.clone();
            flipped[index] ^= 1 << bit;
            let Ok(types) = Types::parse(&flipped) else { continue };
            for ty in (0..12).filter_map(|id| types.peel(id)) {
                let seen =
                    types.members(ty).count() + types.enumerators(ty).count() + types.parameters(ty).count();
                assert!(seen <= flipped.len() / WORD, "bit {bit} of byte {index}");
            }
        }
    }
}
