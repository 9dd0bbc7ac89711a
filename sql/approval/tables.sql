-- Requests for approval, what was decided about them, and the tables that demand one. src/approval/functions.rs reads the leading
-- columns of the first two by number: append only. Nobody reads or writes these two but through the functions: the stored status may
-- be behind what holds by now, and what an operator reads holds no content of tenants.

CREATE TABLE amp.approval_requests (
    id text COLLATE "C" CONSTRAINT approval_requests_pkey PRIMARY KEY,
    tenant_id text COLLATE "C" NOT NULL,
    status text COLLATE "C" NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'approved', 'rejected', 'expired')),
    reason text COLLATE "C" CHECK (reason IN ('not_required', 'decided', 'escalation', 'auto', 'superseded', 'timeout')),
    decided_at timestamptz,
    requested_by text COLLATE "C",
    -- Not now(): who requests at the end of a transaction of a day would have it approved by time at once.
    requested_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    decisions integer NOT NULL DEFAULT 0,
    subject_type text COLLATE "C" NOT NULL,
    subject_id text COLLATE "C" NOT NULL,
    content_hash bytea NOT NULL,
    content jsonb NOT NULL,
    CHECK ((status = 'pending') = (reason IS NULL) AND (status = 'pending') = (decided_at IS NULL))
);
CREATE UNIQUE INDEX approval_requests_pending_key ON amp.approval_requests (tenant_id, subject_type, subject_id) WHERE status = 'pending';
CREATE INDEX approval_requests_subject_idx ON amp.approval_requests (tenant_id, subject_type, subject_id, content_hash, requested_at);
CREATE INDEX approval_requests_requested_at_idx ON amp.approval_requests (tenant_id, requested_at, id);
COMMENT ON TABLE amp.approval_requests IS
'Internal: requests for approval, as of the last time that somebody wrote them down; see amp.approvals().';
COMMENT ON COLUMN amp.approval_requests.requested_by IS 'NULL for a service that acted as the tenant itself.';
COMMENT ON COLUMN amp.approval_requests.decisions IS 'How many there are: of two at once under REPEATABLE READ one fails.';
COMMENT ON COLUMN amp.approval_requests.content_hash IS 'SHA-256 of the content''s text.';

CREATE TABLE amp.approval_decisions (
    request_id text COLLATE "C" NOT NULL,
    user_id text COLLATE "C" NOT NULL,
    decision text COLLATE "C" NOT NULL CHECK (decision IN ('approve', 'reject')),
    at timestamptz NOT NULL,
    comment text,
    CONSTRAINT approval_decisions_pkey PRIMARY KEY (request_id, user_id)
);
COMMENT ON TABLE amp.approval_decisions IS 'Internal: who has decided what about a request for approval.';

CREATE TABLE amp.approval_gates (
    relation regclass CONSTRAINT approval_gates_pkey PRIMARY KEY,
    gated_column name NOT NULL,
    states text[] COLLATE "C" NOT NULL,
    subject_type text COLLATE "C" NOT NULL,
    key_columns name[] NOT NULL,
    content_columns name[],
    parent regclass
);
COMMENT ON TABLE amp.approval_gates IS
'Tables whose rows cannot enter these states without approval, partitions and inheritance children included.';
COMMENT ON COLUMN amp.approval_gates.content_columns IS 'What is approved; NULL for all columns but the gated one.';
COMMENT ON COLUMN amp.approval_gates.parent IS 'The table in this list that it is a partition or child of.';

ALTER TABLE amp.approval_requests ENABLE ROW LEVEL SECURITY;
ALTER TABLE amp.approval_decisions ENABLE ROW LEVEL SECURITY;
ALTER TABLE amp.approval_gates ENABLE ROW LEVEL SECURITY; -- everybody may read it; against who may write everything
CREATE POLICY everybody ON amp.approval_gates FOR SELECT USING (true);
GRANT SELECT ON amp.approval_gates TO PUBLIC;

SELECT pg_catalog.pg_extension_config_dump('amp.approval_requests', '');
SELECT pg_catalog.pg_extension_config_dump('amp.approval_decisions', '');
SELECT pg_catalog.pg_extension_config_dump('amp.approval_gates', '');
