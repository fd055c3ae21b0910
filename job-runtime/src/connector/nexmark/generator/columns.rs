//! Columns of the three streams: their names and types.
//!
//! Owns which column of a table is which of the benchmark's. The values are the generator's.

use arrow::datatypes::{DataType, SchemaRef, TimeUnit};

use super::Stream;

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::connector::nexmark) enum ColumnKind {
    Id,
    Auction,
    Bidder,
    Price,
    Channel,
    Url,
    DateTime,
    Extra,
    Name,
    Email,
    CreditCard,
    City,
    State,
    ItemName,
    Description,
    InitialBid,
    Reserve,
    Expires,
    Seller,
    Category,
}

impl ColumnKind {
    fn of(stream: Stream, name: &str) -> Option<ColumnKind> {
        use ColumnKind as C;
        let columns: &[(&str, ColumnKind)] = match stream {
            Stream::Bid => &[
                ("auction", C::Auction),
                ("bidder", C::Bidder),
                ("price", C::Price),
                ("channel", C::Channel),
                ("url", C::Url),
            ],
            Stream::Person => &[
                ("id", C::Id),
                ("name", C::Name),
                ("emailAddress", C::Email),
                ("creditCard", C::CreditCard),
                ("city", C::City),
                ("state", C::State),
            ],
            Stream::Auction => &[
                ("id", C::Id),
                ("itemName", C::ItemName),
                ("description", C::Description),
                ("initialBid", C::InitialBid),
                ("reserve", C::Reserve),
                ("expires", C::Expires),
                ("seller", C::Seller),
                ("category", C::Category),
            ],
        };
        let shared = [("dateTime", C::DateTime), ("extra", C::Extra)];
        columns.iter().chain(&shared).find(|(known, _)| same_name(known, name)).map(|(_, kind)| *kind)
    }

    fn data_type(self) -> &'static str {
        match self {
            ColumnKind::Id
            | ColumnKind::Auction
            | ColumnKind::Bidder
            | ColumnKind::Price
            | ColumnKind::InitialBid
            | ColumnKind::Reserve
            | ColumnKind::Seller
            | ColumnKind::Category => "BIGINT",
            ColumnKind::DateTime | ColumnKind::Expires => "TIMESTAMP(3)",
            ColumnKind::Channel
            | ColumnKind::Url
            | ColumnKind::Extra
            | ColumnKind::Name
            | ColumnKind::Email
            | ColumnKind::CreditCard
            | ColumnKind::City
            | ColumnKind::State
            | ColumnKind::ItemName
            | ColumnKind::Description => "STRING",
        }
    }
}

/// `dateTime` is also `date_time`, as other engines write it, in any case.
fn same_name(known: &str, name: &str) -> bool {
    name.len() <= known.len() + 4 && name.replace('_', "").eq_ignore_ascii_case(known)
}

/// The kinds of a schema's columns.
pub(in crate::connector::nexmark) fn columns(stream: Stream, schema: &SchemaRef) -> Result<Vec<ColumnKind>, String> {
    let kinds = schema.fields().iter().map(|field| {
        let kind = ColumnKind::of(stream, field.name())
            .ok_or_else(|| format!("the stream has no column {}; its columns are {}", field.name(), names(stream)))?;
        let fits = match field.data_type() {
            DataType::Int64 => kind.data_type() == "BIGINT",
            DataType::Utf8 => kind.data_type() == "STRING",
            DataType::Timestamp(TimeUnit::Millisecond, _) => kind.data_type() == "TIMESTAMP(3)",
            _ => false,
        };
        if fits { Ok(kind) } else { Err(format!("declare the column {} as {}", field.name(), kind.data_type())) }
    });
    kinds.collect()
}

fn names(stream: Stream) -> &'static str {
    match stream {
        Stream::Person => "id, name, emailAddress, creditCard, city, state, dateTime, extra",
        Stream::Auction => "id, itemName, description, initialBid, reserve, dateTime, expires, seller, category, extra",
        Stream::Bid => "auction, bidder, price, channel, url, dateTime, extra",
    }
}
