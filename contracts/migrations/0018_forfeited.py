"""What is billed on of a removed line names its owner and its share, so that stored rows are read as written.

The owner is the present one and the share all of the price, as in most of them; a rebuild tells the others.
"""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("contracts", "0017_former_parties")]
    operations = [
        migrations.RunSQL(
            """UPDATE contracts_contract SET state = jsonb_set(state, '{lines}', (
                   SELECT jsonb_object_agg(line_id, CASE WHEN line ? 'paid_until'
                       THEN line - 'paid_until' || jsonb_build_object('forfeited', jsonb_build_object(
                           'until', line -> 'paid_until', 'buyer_id', state -> 'buyer_id',
                           'owner_epoch', state -> 'owner_epoch', 'share', '1'))
                       ELSE line END)
                   FROM jsonb_each(state -> 'lines') AS held (line_id, line)
               ))
               WHERE jsonb_path_exists(state, '$.lines.*.paid_until')""",
            migrations.RunSQL.noop,
        )
    ]
