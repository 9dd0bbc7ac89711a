-- Keys that sign tokens. To rotate: add the new one, let the issuer use it, and retire the old one when its last token has expired.

CREATE FUNCTION amp.store_signing_key(kid text, algorithm text, key text, issuer text, audience text, single_use boolean) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM amp.assert_called_by_operator();
    IF kid IS NULL OR kid !~ '^[!-~]{1,255}$' THEN
        RAISE EXCEPTION USING ERRCODE = '22023',
            MESSAGE = format('invalid kid %s', coalesce(quote_literal(left(kid, 64)), 'NULL')),
            HINT = 'Use 1 to 255 printable ASCII characters without spaces: what the issuer puts into the header of its tokens.';
    END IF;
    IF algorithm IS NULL OR key IS NULL OR single_use IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = '22004', MESSAGE = format('signing key "%s": algorithm, key and single_use cannot be NULL', kid),
            HINT = 'Pass algorithm => ''EdDSA'' and the public key in PEM form.';
    END IF;
    IF issuer = '' OR audience = '' THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = format('signing key "%s": issuer and audience cannot be empty', kid),
            HINT = 'Leave out what is not to be checked.';
    END IF;
    PERFORM amp.check_signing_key(algorithm, key);
    INSERT INTO amp.signing_keys (kid, algorithm, key, issuer, audience, single_use)
    VALUES (store_signing_key.kid, store_signing_key.algorithm, store_signing_key.key, store_signing_key.issuer,
            store_signing_key.audience, store_signing_key.single_use)
    ON CONFLICT ON CONSTRAINT signing_keys_pkey DO NOTHING;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = '23505', MESSAGE = format('signing key "%s" exists or existed', kid),
            HINT = 'Choose another kid; a name is never given twice.';
    END IF;
    PERFORM amp.log_change('signing_key.added', NULL, jsonb_build_object(
        'kid', kid, 'algorithm', algorithm, 'issuer', issuer, 'audience', audience, 'single_use', single_use));
END
$$;
COMMENT ON FUNCTION amp.store_signing_key(text, text, text, text, text, boolean) IS 'The work of add_signing_key(), for operators.';

CREATE FUNCTION amp.add_signing_key(
        kid text, algorithm text, key text, issuer text DEFAULT NULL, audience text DEFAULT NULL, single_use boolean DEFAULT false)
    RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM amp.mark_caller();
    PERFORM amp.store_signing_key(kid, algorithm, key, issuer, audience, single_use);
END
$$;
COMMENT ON FUNCTION amp.add_signing_key(text, text, text, text, text, boolean) IS
'Operator: from now on tokens are accepted whose header names this kid and this algorithm (HS256, ES256, EdDSA, RS256), signed by this key: a public key in PEM form, or the secret of HS256 (32 bytes or more, as it is). With issuer or audience, they have to name it; a token that names an audience needs one here. With single_use each is accepted once (it needs jti and iat). Errors: TN004, 22023 a bad kid, algorithm or key, 22004, 23505 the kid exists.';

CREATE FUNCTION amp.retire_stored_signing_key(kid text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM amp.assert_called_by_operator();
    -- Its secret, if it is one, is of no use any more, and gone. The row stays, so that its name is not given again.
    UPDATE amp.signing_keys s SET retired_at = now(), key = ''
    WHERE s.kid = retire_stored_signing_key.kid AND s.retired_at IS NULL;
    IF FOUND THEN
        PERFORM amp.log_change('signing_key.retired', NULL, jsonb_build_object('kid', kid));
    ELSIF NOT EXISTS (SELECT FROM amp.signing_keys s WHERE s.kid = retire_stored_signing_key.kid) THEN
        RAISE EXCEPTION USING ERRCODE = '42704',
            MESSAGE = format('signing key %s is unknown', coalesce(quote_literal(left(kid, 64)), 'NULL')),
            HINT = 'See amp.signing_keys.';
    END IF;
END
$$;
COMMENT ON FUNCTION amp.retire_stored_signing_key(text) IS 'The work of retire_signing_key(), for operators.';

CREATE FUNCTION amp.retire_signing_key(kid text) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM amp.mark_caller();
    PERFORM amp.retire_stored_signing_key(kid);
END
$$;
COMMENT ON FUNCTION amp.retire_signing_key(text) IS
'Operator: no token of this key is accepted any more, and sessions that were let in by one end at their next statement. Again is no error. Errors: TN004, 42704 unknown.';
