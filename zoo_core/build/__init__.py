"""``zoo.get``: request, construct, load, edit, place."""
