-- Version 6: fan-ins.

-- A fan-in by the id of its follow-up, which is kept as the document for enqueue_1. of_queue: that of its members.
-- grown: how many members there are so far. members: the same once it is sealed, else null. touched: when it has grown,
-- or a member has ended, or was looked for.
create table {schema}.fan_in (name text collate "C" primary key, of_queue int not null, grown int not null default 0,
  members int, touched double precision not null, follow_up text not null, succeeded int not null default 0,
  discarded int not null default 0, dead int not null default 0, cancelled int not null default 0,
  unknown int not null default 0);
-- The members that have not ended. So a member ends once, whoever ends it again.
create table {schema}.member (fan_in text collate "C" not null, number int not null, primary key (fan_in, number));

-- Which member of which fan-in the extras of a job name, as name/number; null: of none. A quote within a value is
-- escaped, so only a field can look like this.
create function {schema}.member_1(extras text) returns text language sql immutable
  as $$ select substring(extras from '"fan_in":"([0-9a-f]{{32}}/[0-9]{{1,9}})"') $$;

-- Enqueues the follow-up if all members have ended. The caller has the lock of the fan-in's row.
create function {schema}.fire_fan_in_1(ident text) returns void language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off as $$
declare f {schema}.fan_in; job jsonb; extras text; counts text; moment double precision := {schema}.clock(); q int;
begin
  select * into f from {schema}.fan_in where name = ident and members is not null
    and not exists (select from {schema}.member where fan_in = ident);
  if not found then
    return;
  end if;
  job := f.follow_up::jsonb -> 'jobs' -> 0;
  q := job ->> 'queue';
  extras := job ->> 'extras';
  select '"ended":{{' || coalesce(string_agg('"' || how || '":' || n, ','), '') || '}}}}' into counts
    from (values ('succeeded', f.succeeded), ('discarded', f.discarded), ('dead', f.dead), ('cancelled', f.cancelled),
      ('unknown', f.unknown)) as ends(how, n) where n > 0;
  job := job || jsonb_build_object('enqueued_at', moment, 'eligible_at', moment, 'not_before', null,
    'expires_at', moment + (job ->> 'ttl')::float8,
    'extras', case when extras is null then '{{' else left(extras, -1) || ',' end || counts);
  perform {schema}.enqueue_1(jsonb_build_object('jobs', jsonb_build_array(job))::text);
  perform pg_notify('{plain}_' || q, 'below');
  delete from {schema}.fan_in where name = ident;
end $$;

-- Ends these members, each once, and enqueues the follow-ups of those fan-ins whose last member this was. The locks are
-- taken in one order, so that no two calls wait for each other. members: as member_1 answers; null: no member.
create function {schema}.end_1(members text[], hows text[]) returns void language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off as $$
declare one text;
begin
  for one in select distinct split_part(m, '/', 1) from unnest(members) as m where m is not null order by 1 loop
    perform from {schema}.fan_in where name = one for update;
    continue when not found;
    with gone as (
        delete from {schema}.member d using unnest(members, hows) as u(m, how)
        where split_part(u.m, '/', 1) = one and d.fan_in = one and d.number = split_part(u.m, '/', 2)::int
        returning u.how),
      counts as (select count(*) as every, count(*) filter (where how = 'succeeded') as s,
        count(*) filter (where how = 'discarded') as i, count(*) filter (where how = 'dead') as d,
        count(*) filter (where how = 'cancelled') as c, count(*) filter (where how = 'unknown') as u from gone)
      update {schema}.fan_in set succeeded = succeeded + s, discarded = discarded + i, dead = dead + d,
        cancelled = cancelled + c, unknown = unknown + u, touched = {schema}.clock()
      from counts where name = one and every > 0;
    if found then
      perform {schema}.fire_fan_in_1(one);
    end if;
  end loop;
end $$;

-- Ends the members among those jobs that were settled; `settled` and `places` are places of jobs. Answers `settled`.
create function {schema}.settled_1(settled bigint[], places bigint[], members text[], hows text[]) returns setof bigint
  language plpgsql as $$
begin
  perform {schema}.end_1(array_agg(u.m), array_agg(u.how)) from unnest(places, members, hows) as u(place, m, how)
    where u.m is not null and u.place = any(settled);
  return query select unnest(settled);
end $$;

-- Every job that is cancelled comes here, whichever function has set it aside.
create function {schema}.member_cancelled_1() returns trigger language plpgsql as $$
begin
  perform {schema}.end_1(array[{schema}.member_1(new.extras)], array['cancelled']);
  return null;
end $$;
create trigger member_cancelled after insert on {schema}.cancelled for each row
  when (new.extras like '%"fan_in":"%') execute function {schema}.member_cancelled_1();

-- As complete_1, for a member.
create function {schema}.complete_2(document text) returns text language plpgsql as $$
declare answer text := {schema}.complete_1(document);
begin
  if answer = 'done' then
    perform {schema}.end_1(array[document::jsonb ->> 'member'], array['succeeded']);
  end if;
  return answer;
end $$;

create function {schema}.grow_fan_in_1(ident text, count int) returns boolean language plpgsql as $$
begin
  perform from {schema}.fan_in where name = ident for update;
  if not found then
    return false;
  end if;
  insert into {schema}.member select ident, generate_series(grown, count - 1) from {schema}.fan_in
    where name = ident and members is null;
  update {schema}.fan_in set grown = greatest(grown, count), touched = {schema}.clock()
    where name = ident and members is null;
  return true;
end $$;

create function {schema}.seal_fan_in_1(ident text, count int) returns boolean language plpgsql as $$
begin
  update {schema}.fan_in set members = count where name = ident;
  if not found then
    return false;
  end if;
  perform {schema}.fire_fan_in_1(ident);
  return true;
end $$;

-- Deletes fan-ins that were not sealed in time, and ends members of sealed ones that have left unseen: their jobs
-- neither wait nor run. Answers how many fan-ins it has looked at.
create function {schema}.mend_fan_ins_1(given_up double precision, mend_after double precision) returns int
  language plpgsql as $$
declare f {schema}.fan_in; lost text[]; looked int := 0; moment double precision := {schema}.clock();
begin
  with gone as (delete from {schema}.fan_in where members is null and touched <= moment - given_up returning name)
    delete from {schema}.member m using gone where m.fan_in = gone.name;
  for f in select * from {schema}.fan_in where members is not null and touched <= moment - mend_after
      order by touched limit 10 loop
    looked := looked + 1;
    with alive as (
        select {schema}.member_1(extras) as m from {schema}.job where queue = f.of_queue and extras like '%"fan_in":"%'
        union all
        select {schema}.member_1(extras) from {schema}.later where queue = f.of_queue and extras like '%"fan_in":"%')
      select array_agg(f.name || '/' || number) into lost from {schema}.member
      where fan_in = f.name and f.name || '/' || number not in (select m from alive where m is not null);
    if lost is not null then
      perform {schema}.end_1(lost, array_fill('unknown'::text, array[cardinality(lost)]));
    else
      update {schema}.fan_in set touched = moment where name = f.name;
    end if;
  end loop;
  return looked;
end $$;
