-- Version 3: priorities that starve.

-- The first waiting job at or behind each of these places, within its priority, and for how long it has been eligible.
create function {schema}.firsts_1(q int, places bigint[]) returns table (place bigint, waits double precision)
  language plpgsql set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off as $$
#variable_conflict use_column
begin
  for i in 1 .. cardinality(places) loop
    return query select j.place, {schema}.clock() - j.eligible_at from {schema}.job j
      where j.queue = q and j.place >= places[i] and j.place < places[i] + (1::bigint << 56) and j.owner is null
      order by j.queue, j.place limit 1;
  end loop;
end $$;
