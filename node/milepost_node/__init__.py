"""A node of the network: it finalises blocks, keeps records, retrains what it is elected for.

Everything here is adapters around the pure packages.  The ledger's rules live in
`milepost_consensus`, the retraining in `milepost_ml`; a node decides the validity of nothing.
"""
