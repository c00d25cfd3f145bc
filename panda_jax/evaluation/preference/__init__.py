"""Preference studies: people look at the videos of two methods side by side and choose.

  trials.py      which clips and pairs; the key
  media.py       copies of videos that do not tell where they come from
  page.py        the page that is handed out, from page.html
  answers.py     the files that come back
  statistics.py  preference and intervals
  tables.py      the result for people and programs

Source: VideoPanda §4.1, "User Preference".
"""
