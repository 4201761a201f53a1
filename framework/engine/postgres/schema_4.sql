-- Version 4.

-- Unique keys -----------------------------------------------------------------------------------------------------
-- The job that took a key last; `key` is a hash. It holds the key while its row is where `until` says, or until `ends`.
-- So no statement that settles a job looks here; rows of jobs that are gone are deleted now and then.
create table {schema}.unique_key (queue int not null, key text collate "C" not null, id text collate "C" not null,
  uid bytea not null, until text not null, ends double precision, primary key (queue, key));

-- Gives a key to a job, and answers null; or answers the id of the job that holds it.
create function {schema}.hold_1(q int, k text, new_id text, new_uid bytea, new_until text, seconds float8) returns text
  language plpgsql set enable_seqscan = off set enable_bitmapscan = off as $$
declare known {schema}.unique_key; new_ends double precision := {schema}.clock() + seconds;
begin
  loop
    insert into {schema}.unique_key values (q, k, new_id, new_uid, new_until, new_ends) on conflict do nothing;
    if found then
      return null;
    end if;
    select * into known from {schema}.unique_key where queue = q and key = k for update;
    continue when not found;
    if known.ends > {schema}.clock() or (known.ends is null and (
        exists (select from {schema}.job where id = known.id and uid = known.uid and queue = q
          and (owner is null or known.until <> 'started'))
        or exists (select from {schema}.later where id = known.id and uid = known.uid and queue = q))) then
      return known.id;
    end if;
    update {schema}.unique_key set id = new_id, uid = new_uid, until = new_until, ends = new_ends
      where queue = q and key = k;
    return null;
  end loop;
end $$;

-- Gives payload and headers of an enqueued job to the one that holds its key, if that was never claimed; where it is to
-- be postponed, also the time. A promotion may move it meanwhile, so this looks for it three times.
create function {schema}.change_1(q int, k text, j jsonb) returns void language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off as $$
declare
  known {schema}.unique_key; later boolean := j ->> 'on_conflict' = 'postpone';
  data bytea := decode(j ->> 'payload', 'base64'); eligible float8 := j ->> 'eligible_at';
  expires float8 := j ->> 'expires_at'; seconds float8 := j ->> 'ttl'; due_at float8 := least(eligible, expires);
begin
  select * into known from {schema}.unique_key where queue = q and key = k;
  for i in 1 .. 3 loop
    if later then
      with gone as (delete from {schema}.job where id = known.id and uid = known.uid and queue = q and owner is null
        and delivery = 0 returning *)
      insert into {schema}.later (queue, place, eligible_at, expires_at, since, home, id, uid, chosen, payload, headers,
          extras, enqueued_at, not_before, ttl, scheduled_for, due)
        select queue, place, eligible, expires, {schema}.clock(), home, id, uid, chosen, data, j ->> 'headers', extras,
          enqueued_at, eligible, seconds, scheduled_for, due_at from gone;
      exit when found;
      update {schema}.later set payload = data, headers = j ->> 'headers', eligible_at = eligible, expires_at = expires,
        not_before = eligible, ttl = seconds, due = due_at
        where id = known.id and uid = known.uid and queue = q and delivery = 0;
    else
      update {schema}.job set payload = data, headers = j ->> 'headers'
        where id = known.id and uid = known.uid and queue = q and owner is null and delivery = 0;
      exit when found;
      update {schema}.later set payload = data, headers = j ->> 'headers'
        where id = known.id and uid = known.uid and queue = q and delivery = 0;
    end if;
    exit when found;
  end loop;
end $$;

-- As enqueue_1, for jobs of which some have a unique key; answers also `held` with the id of the job that holds it. The
-- locks are taken in one order, so that no two calls wait for each other.
create function {schema}.enqueue_2(document text) returns table (number int, answer text) language plpgsql
  set lock_timeout = '1s' set enable_seqscan = off set enable_bitmapscan = off as $$
#variable_conflict use_column
declare
  doc jsonb := document::jsonb; jobs jsonb := doc -> 'jobs'; j jsonb; q text; n int := 0; told text;
begin
  begin
    perform pg_advisory_xact_lock(one) from (
      select distinct hashtextextended((e ->> 'queue') || ' ' || (e ->> 'unique'), 3) as one
      from jsonb_array_elements(jobs) e where e ? 'unique' order by 1) locks;
  exception when lock_not_available or deadlock_detected then
    return query select 1, 'locked';
    return;
  end;
  doc := jsonb_set(doc - 'jobs', '{{rooms}}', coalesce(doc -> 'rooms', '{{}}'));
  for j in select * from jsonb_array_elements(jobs) loop
    n := n + 1;
    q := j ->> 'queue';
    told := null;
    if j ? 'unique' then
      told := 'held ' || {schema}.hold_1(q::int, j ->> 'unique', j ->> 'id', decode(j ->> 'uid', 'base64'),
        j ->> 'until', (j ->> 'window')::float8);
      if told is not null and j ? 'on_conflict' then
        perform {schema}.change_1(q::int, j ->> 'unique', j);
      end if;
    end if;
    if told is null then
      if doc -> 'most' ? q and not doc -> 'rooms' ? q then
        doc := jsonb_set(doc, array['rooms', q], to_jsonb({schema}.room_1(q::int, (doc -> 'most' ->> q)::int)));
      end if;
      select answer into told from {schema}.enqueue_1((doc || jsonb_build_object('jobs', jsonb_build_array(j)))::text);
      if told = 'stored' and doc -> 'rooms' ? q then
        doc := jsonb_set(doc, array['rooms', q], to_jsonb((doc -> 'rooms' ->> q)::int - 1));
      elsif told <> 'stored' and j ? 'unique' then
        delete from {schema}.unique_key where queue = q::int and key = j ->> 'unique' and id = j ->> 'id';
      end if;
    end if;
    return query select n, told;
    exit when told in ('full', 'locked');
  end loop;
end $$;

-- Deletes keys that no job holds and that none will hold again by itself; answers how many.
create function {schema}.forget_keys_1(most int) returns bigint language sql volatile
  set enable_seqscan = on as $$
  with gone as (delete from {schema}.unique_key where ctid = any(array(
    select k.ctid from {schema}.unique_key k where k.ends <= {schema}.clock() or (k.ends is null
      and not exists (select from {schema}.job where id = k.id and uid = k.uid and queue = k.queue)
      and not exists (select from {schema}.later where id = k.id and uid = k.uid and queue = k.queue))
    limit most for update skip locked)) returning 1) select count(*) from gone
$$;
-- End of unique keys ------------------------------------------------------------------------------------------------
