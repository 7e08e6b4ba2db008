"""Stores: where the chunks, the ledger and the pointer of an index live."""
